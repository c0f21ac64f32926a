"""Documents name what exists: identifiers of the glossary, files of the page of architecture."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def defined_names() -> set[str]:
    names: set[str] = set()
    for path in (*(ROOT / "hallo3").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign | ast.FunctionDef)]
                names |= {f"{node.name}.{_name(field)}" for field in fields}
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _name(field: ast.AnnAssign | ast.FunctionDef) -> str:
    if isinstance(field, ast.FunctionDef):
        return field.name
    return field.target.id if isinstance(field.target, ast.Name) else ""


def test_the_glossary_names_what_exists() -> None:
    text, names = (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), defined_names()
    words = [
        word for line in text.splitlines() if line.startswith("|") for word in re.findall(r"`(.+?)`", line)
    ]
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
