"""What users read, against the nodes as they are: translations and help pages, without ComfyUI."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
NODES: dict[str, Any] = json.loads((ROOT / "tests/data/nodes.json").read_text(encoding="utf-8"))
DOCS = ROOT / "web" / "docs"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_EVERYWHERE = {"VAE", "Sigmas"}
"""Names that Chinese users know by these letters."""
OF_THE_FRONTEND = {"loaders", "sampling"}
"""Categories that ComfyUI itself translates."""

both = pytest.mark.parametrize("language", LANGUAGES)
every_node = pytest.mark.parametrize("node", NODES)


def locale(language: str, name: str) -> Any:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def page_of(node: str, language: str) -> Path:
    return DOCS / node / f"{language}.md"


def texts(tree: Any) -> Iterator[str]:
    """Every text of a translation, without the keys."""
    if isinstance(tree, str):
        yield tree
    else:
        for branch in tree.values():
            yield from texts(branch)


def tables(page: str) -> Iterator[list[list[str]]]:
    """The cells of a page's tables, without the heads."""
    for block in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE):
        rows = [row.strip("| ").split(" | ") for row in block.splitlines()]
        yield rows[2:]


@every_node
def test_other_languages_fall_back_to_english(node: str) -> None:
    """``make contract`` copies the page to where ComfyUI looks last."""
    assert (DOCS / f"{node}.md").read_bytes() == page_of(node, "en").read_bytes()


@both
@every_node
def test_every_node_input_and_output_is_translated(node: str, language: str) -> None:
    entry, spec = locale(language, "nodeDefs")[node], NODES[node]
    assert entry["display_name"]
    assert entry["description"]
    inputs, outputs = entry.get("inputs", {}), entry.get("outputs", {})
    assert list(inputs) == [each["id"] for each in spec["inputs"]]
    assert list(outputs) == [str(index) for index in range(len(spec["outputs"]))]
    for slot in [*inputs.values(), *outputs.values()]:
        assert slot.keys() == {"name", "tooltip"}
        assert all(slot.values())


@both
def test_no_translation_is_left_over(language: str) -> None:
    assert list(locale(language, "nodeDefs")) == list(NODES)
    for entry in locale(language, "nodeDefs").values():
        assert entry.keys() <= {"display_name", "description", "inputs", "outputs"}


@both
def test_categories_are_translated_part_by_part(language: str) -> None:
    """The frontend splits a category at its slashes and looks up each part."""
    parts = {part for spec in NODES.values() for part in spec["category"].split("/")}
    assert locale(language, "main")["nodeCategories"].keys() == parts - OF_THE_FRONTEND


def test_english_names_are_those_of_the_nodes() -> None:
    for node, entry in locale("en", "nodeDefs").items():
        assert entry["display_name"] == NODES[node]["display_name"]
        inputs = [(name, texts["name"]) for name, texts in entry.get("inputs", {}).items()]
        assert all(name == shown for name, shown in inputs)
        names = [output["name"] for output in entry["outputs"].values()]
        assert names == [output["id"] for output in NODES[node]["outputs"]]


def test_chinese_is_chinese() -> None:
    found = set(texts(locale("zh", "nodeDefs"))) - SAME_EVERYWHERE
    assert [text for text in found if not CHINESE.search(text)] == []
    for node in NODES:
        prose = page_of(node, "zh").read_text(encoding="utf-8")
        assert len(CHINESE.findall(prose)) > 100, node
        assert not re.search(r"[\u4e00-\u9fff][,;!?]", prose), f"{node}: punctuation of another language"


@both
def test_translations_hold_nothing_that_the_frontend_would_read_as_code(language: str) -> None:
    assert [text for text in texts(locale(language, "nodeDefs")) if re.search(r"[{}|@$]", text)] == []


@both
@every_node
def test_every_node_has_a_help_page(node: str, language: str) -> None:
    page, entry = page_of(node, language).read_text(encoding="utf-8"), locale(language, "nodeDefs")[node]
    assert page.startswith(f"# {entry['display_name']}\n\n")
    assert len(re.findall(r"^## ", page, re.MULTILINE)) == 3 + ("**" in page)  # "If it stops"
    wanted = [list(entry[kind].items()) for kind in ("inputs", "outputs") if entry.get(kind)]
    found = list(tables(page))
    assert [len(rows) for rows in found] == [len(slots) for slots in wanted]
    for rows, slots in zip(found, wanted, strict=True):
        for cells, (_, slot) in zip(rows, slots, strict=True):
            assert slot["name"] in cells[0]
            assert all(cells)
    for each in NODES[node]["inputs"]:
        cells = next(cells for cells in found[0] if f"`{each['id']}`" in cells[0])
        assert "default" not in each or cells[-1] == f"`{each['default']}`"


def test_no_help_page_is_left_over() -> None:
    pages = {page_of(node, language) for node in NODES for language in LANGUAGES}
    pages |= {DOCS / f"{node}.md" for node in NODES}
    assert {path for path in DOCS.rglob("*") if path.is_file()} == pages


@every_node
def test_chinese_pages_call_our_nodes_as_the_menu_does(node: str) -> None:
    names = {entry["display_name"] for entry in locale("zh", "nodeDefs").values()}
    said = re.findall(r"“([^“”]*Hallo3[^“”]*)”", page_of(node, "zh").read_text(encoding="utf-8"))
    assert set(said) <= names


def headlines() -> Iterator[str]:
    """What errors begin with, as patterns; of formatted ones, the parts that stand."""
    for folder in ("nodes", "hallo3"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
                if isinstance(call, ast.Call) and name.endswith("Error") and call.args:
                    yield from pattern(call.args[0])


def pattern(text: ast.expr) -> Iterator[str]:
    if isinstance(text, ast.IfExp):
        yield from (*pattern(text.body), *pattern(text.orelse))
    if isinstance(text, ast.Constant | ast.JoinedStr):
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        yield "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts)


@both
@every_node
def test_errors_that_a_page_explains_exist(node: str, language: str) -> None:
    known = list(headlines())
    for headline in re.findall(r"\*\*(.+?)\*\*", page_of(node, language).read_text(encoding="utf-8")):
        assert any(re.fullmatch(each, headline) for each in known), headline


def test_no_text_names_a_place_on_a_machine() -> None:
    places = r"(?:^|[\s\"'(`])(?:/(?:work|tmp|home|root|usr|mnt|Users)\b|~/|[A-Z]:\\)"
    files = [*(ROOT / "locales").rglob("*.json"), *DOCS.rglob("*.md")]
    found = [path.name for path in files if re.search(places, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert files
    assert found == []
