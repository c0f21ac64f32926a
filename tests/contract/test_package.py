"""What is published: one version number, the registry's form, and an archive whose pages lead somewhere."""

import re
import tomllib
from pathlib import Path

from PIL import Image

import hallo3

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOLD = (
    "CITATION.cff",
    "Dockerfile",
    "mkdocs.yml",
    "Makefile",
    "__init__.py",
    "hallo3/**/*.py",
    "nodes/**/*.py",
)


def test_one_file_holds_the_version() -> None:
    assert hallo3.__version__ == PROJECT["project"]["version"]
    files = [path for pattern in TOLD for path in ROOT.glob(pattern)]
    number = re.compile(r"^_*version_*\s*[:=]\s*['\"]?\d", re.IGNORECASE | re.MULTILINE)
    assert [path.name for path in files if number.search(path.read_text(encoding="utf-8"))] == []


def test_the_registry_gets_what_its_form_asks_for() -> None:
    about, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert about["license"] == {"text": "MIT"}
    assert about["urls"].keys() >= {"Repository", "Documentation"}
    pictures = dict[str, tuple[int, int]]()
    for name in ("Icon", "Banner"):
        before, _, path = comfy[name].partition("/main/")
        assert before.endswith(about["urls"]["Repository"].removeprefix("https://github.com"))
        with Image.open(ROOT / path) as picture:
            pictures[name] = picture.size
    width, height = pictures["Icon"]
    assert width == height <= 400
    width, height = pictures["Banner"]
    assert width * 9 == height * 21


def test_links_of_the_archive_lead_to_files_in_it() -> None:
    dropped = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text(encoding="utf-8")):
            place = "/" + (page.parent / link).resolve().relative_to(ROOT).as_posix()
            assert not any(place.startswith(each.rstrip("/")) for each in dropped), f"{page.name}: {link}"


def test_the_container_gets_all_that_the_wheel_is_made_of() -> None:
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE) for word in line.split()}
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {word.removeprefix("!") for word in kept if word.startswith("!")} == copied
    setup = PROJECT["tool"]["setuptools"]
    sources = {setup["package-dir"].get(name, name.split(".")[0]) for name in setup["packages"]}
    assert copied == {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE", *sources}
    extras = re.search(r"\[([\w,]+)\]", recipe)
    assert extras is not None
    assert set(extras[1].split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
