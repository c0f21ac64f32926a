"""Documents name what exists, and their examples run; they, interface and code use no phrase of
``support.plain_english``."""

import ast
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import hallo3
from hallo3.built_in import FOLDER
from hallo3.cli.main import COMMANDS, main, parse
from support.plain_english import PATTERN, find_banned

ROOT = Path(__file__).resolve().parents[2]
CHECKED = (
    *(
        "__init__.py",
        "hallo3/**/*.py",
        "nodes/**/*.py",
        "tools/**/*.py",
        "benchmarks/**/*.py",
        "behaviour/*.py",
    ),
    *("tests/comfyui/*.py", "tests/contract/*.py", "tests/cli/*.py", "tests/jobs/*.py", "tests/*.py"),
    *("locales/en/*.json", "web/docs/*/en.md", "workflows/*.json", "subgraphs/*.json"),
    *("*.md", "docs/**/*.md", "training/*.md", "*.toml", "*.yml", "*.cff", ".github/**/*.yml"),
)


def defined_names() -> set[str]:
    names: set[str] = set()
    for path in (*(ROOT / "hallo3").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names |= _names(node)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{name}" for field in node.body for name in _names(field)}
    return names


def _names(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return set()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_glossary_names_what_exists() -> None:
    text, names = (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), defined_names()
    rows = "".join(line for line in text.splitlines() if line.startswith("|"))
    words = re.findall(r"`(.+?)`", rows)
    assert len(words) > 40
    assert [word for word in words if word not in names and not (ROOT / word).exists()] == []


def test_the_page_of_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    missing, folder = list[str](), ""
    for cell in re.findall(r"^\| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE):
        for word in re.findall(r"`([\w/]+\.py)`", cell):
            folder = word.rpartition("/")[0] if "/" in word else folder
            places = (ROOT / "hallo3" / word, ROOT / word, ROOT / "hallo3" / folder / word)
            missing += [] if any(place.is_file() for place in places) else [word]
    assert missing == []
    assert text.count("\n") < 110, "one page"


def test_no_banned_phrase_is_written() -> None:
    files = [path for pattern in CHECKED for path in sorted(ROOT.glob(pattern))]
    assert len(files) > 30
    assert [found for path in files for found in find_banned(path)] == []


def test_no_banned_phrase_is_in_the_help_of_any_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit):
            parse([*words, "--help"])
    said = capsys.readouterr().out
    assert said.count("usage: hallo3") == 1 + len(COMMANDS)
    assert PATTERN.findall(said) == []


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "web").rglob("en.md")))


def command_lines() -> Iterator[list[str]]:
    """Words of every documented line that begins with ``hallo3``, without comments."""
    pattern = re.compile(r"^ {4}(?:\.venv/bin/)?hallo3 (.+)$", re.MULTILINE)
    for page in PAGES:
        yield from (shlex.split(line, comments=True) for line in pattern.findall(page.read_text("utf-8")))


def test_the_readme_is_short_and_links_lead_to_files() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
    dead: list[str] = []
    for page in PAGES:
        links = re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text(encoding="utf-8"))
        dead += [f"{page.relative_to(ROOT)}: {link}" for link in links if not (page.parent / link).exists()]
    assert dead == []


def test_documented_commands_are_commands() -> None:
    names = [parse(words)[0] for words in command_lines()]
    assert set(names) == {"animate", "batch", "convert", "doctor", "download", "serve", "verify"}


@pytest.mark.soak
@pytest.mark.any_message
def test_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    users = {"serve", "verify", "weights", "me.png", "pair.png", "rows.csv", "ComfyUI/models"}
    lines = [words for words in command_lines() if not users & {*words}]
    assert len(lines) > 6
    for words in lines:
        picture = [str(ROOT / "samples/portrait.png") if word == "group.jpg" else word for word in words]
        assert main([word.replace("me.wav", "samples/speech.wav") for word in picture]) == 0, words


def test_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first segment of each example, with the samples and the built-in model in place of a user's."""
    portrait, speech = (
        hallo3.read_picture(ROOT / "samples/portrait.png"),
        hallo3.read_recording(ROOT / "samples/speech.wav"),
    )
    load, animate, segments = hallo3.load_models, hallo3.animate, list[int]()
    models = load(FOLDER, torch.device("cpu"), "fp32")

    def first_segment(*given: object) -> Iterator[object]:
        for segment in animate(*given):
            segments.append(segment[0])
            yield segment
            return

    def pretend(result: object) -> Callable[..., object]:
        return lambda *_, **__: result

    monkeypatch.setattr(hallo3, "load_models", pretend(models), raising=False)
    monkeypatch.setattr(hallo3, "read_picture", pretend(portrait), raising=False)
    monkeypatch.setattr(hallo3, "read_recording", pretend(speech), raising=False)
    monkeypatch.setattr(hallo3, "animate", first_segment, raising=False)
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    for block in blocks:
        (tmp_path / "example.py").write_text(block, encoding="utf-8")
        runpy.run_path(str(tmp_path / "example.py"))
    assert len(segments) == len(blocks) == 2
