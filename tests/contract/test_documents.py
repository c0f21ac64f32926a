"""Documents name what exists; they, interface and code use no phrase of ``support.plain_english``."""

import ast
import re
from pathlib import Path

from support.plain_english import find_banned

ROOT = Path(__file__).resolve().parents[2]
CHECKED = (
    *("__init__.py", "hallo3/**/*.py", "nodes/**/*.py", "tools/**/*.py"),
    *("tests/comfyui/*.py", "tests/contract/*.py", "tests/*.py"),
    *("locales/en/*.json", "web/docs/*/en.md", "workflows/*.json", "subgraphs/*.json"),
    *("*.md", "docs/*.md", "docs/decisions/*.md", "docs/measurements/*.md"),
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
