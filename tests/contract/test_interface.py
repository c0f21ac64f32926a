"""Translations, help pages and example workflows in all forms, against the nodes as they are; no ComfyUI."""

import ast
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hallo3.checkpoints.locate import COMFYUI

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
"""With a page of help for every node."""
OTHER_NAMES = {"segment": "segments before"}
"""Of inputs whose id says less than their name (docs/decisions/005)."""
LETTERS = {"zh": "\u4e00-\u9fff", "ja": "\u3040-\u30ff\u4e00-\u9fff", "ko": "\uac00-\ud7a3"}
"""Of languages with the nodes' texts."""
NODES: dict[str, Any] = json.loads((ROOT / "tests/data/nodes.json").read_text(encoding="utf-8"))
DOCS = ROOT / "web" / "docs"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_EVERYWHERE = {"VAE", "Sigmas", "3D VAE。"}
"""Names that users know by these letters."""
OF_THE_FRONTEND = {"loaders", "sampling"}
"""Categories that ComfyUI itself translates."""
WORKFLOWS, BLUEPRINTS = (sorted((ROOT / name).glob("*.json")) for name in ("workflows", "subgraphs"))
PLACES = (
    r"(?:^|[\s\"'(`])(?:/(?:work|tmp|home|root|usr|mnt|Users)\b|~/|[A-Z]:\\)"
    r"|/(home|root|tmp|work|Users|mnt|usr)/|[A-Z]:\\\\|127\.0\.0\.1|localhost"
)
WIDGETS = ("INT", "FLOAT", "COMBO", "STRING", "BOOLEAN")
MUTED, BYPASSED = 2, 4

each_text = pytest.mark.parametrize("language", ["en", *LETTERS])
both = pytest.mark.parametrize("language", LANGUAGES)
every_node = pytest.mark.parametrize("node", NODES)
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def locale(language: str, name: str) -> Any:
    return read(ROOT / "locales" / language / f"{name}.json")


def page_of(node: str, language: str) -> Path:
    return DOCS / node / f"{language}.md"


def texts(tree: Any) -> list[str]:
    """Every text of a translation, without the keys."""
    return [tree] if isinstance(tree, str) else [text for branch in tree.values() for text in texts(branch)]


def tables(page: str) -> list[list[list[str]]]:
    """The cells of a page's tables, without the heads."""
    blocks = re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE)
    return [[row.strip("| ").split(" | ") for row in block.splitlines()[2:]] for block in blocks]


@each_text
@every_node
def test_every_node_input_and_output_is_translated(node: str, language: str) -> None:
    entry, spec = locale(language, "nodeDefs")[node], NODES[node]
    inputs, outputs = entry.get("inputs", {}), entry.get("outputs", {})
    assert list(inputs) == [each["id"] for each in spec["inputs"]]
    assert list(outputs) == [str(index) for index in range(len(spec["outputs"]))]
    assert all(slot.keys() == {"name", "tooltip"} for slot in (*inputs.values(), *outputs.values()))
    assert entry.keys() >= {"display_name", "description"}
    assert all(texts(entry))


@each_text
def test_a_language_has_all_texts_and_no_other(language: str) -> None:
    """The frontend splits a category at its slashes and looks up each part; some signs it reads as code."""
    translated = locale(language, "nodeDefs")
    assert list(translated) == list(NODES)
    known = {"display_name", "description", "inputs", "outputs"}
    assert all(entry.keys() <= known for entry in translated.values())
    parts = {part for spec in NODES.values() for part in spec["category"].split("/")}
    assert locale(language, "main")["nodeCategories"].keys() == parts - OF_THE_FRONTEND
    assert [text for text in texts(translated) if re.search(r"[{}|@$]", text)] == []


def test_english_names_are_those_of_the_nodes() -> None:
    for node, entry in locale("en", "nodeDefs").items():
        assert entry["display_name"] == NODES[node]["display_name"]
        inputs = entry.get("inputs", {}).items()
        assert all(slot["name"] == OTHER_NAMES.get(name, name) for name, slot in inputs)
        names = [output["name"] for output in entry["outputs"].values()]
        assert names == [output["id"] for output in NODES[node]["outputs"]]


@pytest.mark.parametrize("language", LETTERS)
def test_a_translation_is_in_its_language(language: str) -> None:
    found = set(texts(locale(language, "nodeDefs"))) - SAME_EVERYWHERE
    assert [text for text in found if not re.search(f"[{LETTERS[language]}]", text)] == []


def test_chinese_pages_are_chinese() -> None:
    names = {entry["display_name"] for entry in locale("zh", "nodeDefs").values()}
    for node in NODES:
        prose = page_of(node, "zh").read_text(encoding="utf-8")
        assert len(CHINESE.findall(prose)) > 100, node
        assert not re.search(r"[\u4e00-\u9fff][,;!?]", prose), f"{node}: punctuation of another language"
        assert set(re.findall(r"“([^“”]*Hallo3[^“”]*)”", prose)) <= names, f"{node}: names as in the menu"


@both
@every_node
def test_every_node_has_a_help_page(node: str, language: str) -> None:
    page, entry = page_of(node, language).read_text(encoding="utf-8"), locale(language, "nodeDefs")[node]
    assert page.startswith(f"# {entry['display_name']}\n\n")
    assert len(re.findall(r"^## ", page, re.MULTILINE)) == 3 + ("**" in page)  # "If it stops"
    wanted, found = [entry[kind] for kind in ("inputs", "outputs") if entry.get(kind)], tables(page)
    for rows, slots in zip(found, wanted, strict=True):
        for cells, slot in zip(rows, slots.values(), strict=True):
            assert slot["name"] in cells[0]
            assert all(cells)
    for each in NODES[node]["inputs"]:
        cells = next(cells for cells in found[0] if f"`{each['id']}`" in cells[0])
        assert "default" not in each or cells[-1] == f"`{each['default']}`"


@every_node
def test_pages_explain_the_same_choices_and_errors(node: str) -> None:
    """Both stay English in ComfyUI (docs/decisions/005)."""
    pages = [page_of(node, language).read_text(encoding="utf-8") for language in LANGUAGES]
    first, *others = [set(re.findall(r"\*\*(.+?)\*\*", page)) for page in pages]
    assert all(other == first for other in others)
    choices = {choice for each in NODES[node]["inputs"] for choice in each.get("options", ())} - {"built-in"}
    assert [choice for choice in sorted(choices) for page in pages if f"`{choice}`" not in page] == []


def test_every_help_page_belongs_to_a_node_and_other_languages_fall_back_to_english() -> None:
    """``make contract`` copies the page to where ComfyUI looks last."""
    pages = {page_of(node, language) for node in NODES for language in LANGUAGES}
    pages |= {DOCS / f"{node}.md" for node in NODES}
    assert {path for path in DOCS.rglob("*") if path.is_file()} == pages
    assert all((DOCS / f"{n}.md").read_bytes() == page_of(n, "en").read_bytes() for n in NODES)


def headlines() -> Iterator[str]:
    """What errors begin with, as patterns; of formatted ones, the parts that stand."""
    for path in (*(ROOT / "nodes").rglob("*.py"), *(ROOT / "hallo3").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
                yield from pattern(call.args[0]) if call.func.id.endswith("Error") else ()


def pattern(text: ast.expr) -> Iterator[str]:
    if isinstance(text, ast.IfExp):
        yield from (*pattern(text.body), *pattern(text.orelse))
    if isinstance(text, ast.Constant | ast.JoinedStr):
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        yield "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts)


def test_errors_that_a_page_explains_exist() -> None:
    known = list(headlines())
    for page in (page_of(node, language) for node in NODES for language in LANGUAGES):
        for headline in re.findall(r"\*\*(.+?)\*\*", page.read_text(encoding="utf-8")):
            assert any(re.fullmatch(each, headline) for each in known), f"{page}: {headline}"


def test_no_text_names_a_place_on_a_machine() -> None:
    texts = [*(ROOT / "locales").rglob("*.json"), *DOCS.rglob("*.md")]
    files = [*texts, *WORKFLOWS, *map(twin, WORKFLOWS), *BLUEPRINTS]
    assert len(files) > len(NODES) * 3
    assert [p.name for p in files if re.search(PLACES, p.read_text(encoding="utf-8"), re.MULTILINE)] == []


def twin(path: Path) -> Path:
    return path.parent / "api" / path.name


def ours(nodes: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Our nodes, each with what it should be."""
    for node in nodes:
        if node["type"].startswith("Hallo3"):
            yield node, NODES[node["type"]]


def fits(value: Any, spec: dict[str, Any]) -> bool:
    """Whether a widget's value is one that the node accepts."""
    if spec["type"] == "COMBO":
        return value in spec["options"] or spec["options"] == ["built-in"]  # the contract names no files
    if spec["type"] not in ("INT", "FLOAT"):
        return isinstance(value, str | bool)
    return isinstance(value, int | float) and spec["min"] <= value <= spec["max"]


def test_every_workflow_has_an_api_form_and_no_other_form_is_left() -> None:
    assert len(WORKFLOWS) == 9
    assert {twin(path) for path in WORKFLOWS} == set((ROOT / "workflows" / "api").glob("*.json"))


def test_thumbnails_are_square_and_tell_the_workflows_apart() -> None:
    """As large as ComfyUI's own. ``make pictures`` makes them."""
    pictures = list[np.ndarray]()
    for path in WORKFLOWS:
        assert path.with_suffix(".jpg").stat().st_size < 40_000
        with Image.open(path.with_suffix(".jpg")) as picture:
            assert picture.size == (350, 350)
            pictures.append(np.asarray(picture.convert("RGB"), np.float32))
    for one, other in itertools.combinations(pictures, 2):
        assert np.abs(one - other).mean() > 15


@every_workflow
def test_the_ui_form_fits_our_nodes(path: Path) -> None:
    for node, spec in ours(read(path)["nodes"]):
        inputs = {each["id"]: each["type"] for each in spec["inputs"]}
        assert inputs.items() >= {(slot["name"], slot["type"]) for slot in node["inputs"]}
        assert [each["type"] for each in node["outputs"]] == [each["type"] for each in spec["outputs"]]
        widgets = [each for each in spec["inputs"] if each["type"] in WIDGETS]
        values = [value for value in node.get("widgets_values", []) if value != "fixed"]
        for value, widget in zip(values, widgets, strict=True):
            assert fits(value, widget), f"{node['type']}.{widget['id']} = {value}"


@every_workflow
def test_links_of_the_ui_form_agree(path: Path) -> None:
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    for link, source, outlet, target, inlet, kind in workflow["links"]:
        start, end = nodes[source]["outputs"][outlet], nodes[target]["inputs"][inlet]
        assert (start["type"], end["type"], end["link"]) == (kind, kind, link)
        assert link in start["links"]


@every_workflow
def test_the_api_form_fits_our_nodes(path: Path) -> None:
    prompt = read(twin(path))
    for node in (each for each in prompt.values() if each["class_type"].startswith("Hallo3")):
        specs = {each["id"]: each for each in NODES[node["class_type"]]["inputs"]}
        required = {name for name, spec in specs.items() if spec["required"]}
        assert required <= set(node["inputs"]) <= set(specs)
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                assert fits(value, specs[name]), f"{node['class_type']}.{name} = {value}"
                continue
            source, outlet = value
            kind = prompt[source]["class_type"]
            if kind in NODES:
                assert NODES[kind]["outputs"][outlet]["type"] == specs[name]["type"]


@every_workflow
def test_both_forms_hold_the_same_nodes_in_groups_and_a_note(path: Path) -> None:
    """The note says for what its model is, or where weights go."""
    workflow, asleep = read(path), (MUTED, BYPASSED)
    nodes = workflow["nodes"]
    notes = [node for node in nodes if node["type"] == "MarkdownNote"]
    awake = {str(n["id"]): n["type"] for n in nodes if n["mode"] not in asleep and n not in notes}
    assert awake == {name: node["class_type"] for name, node in read(twin(path)).items()}
    assert "SaveVideo" in awake.values()
    for node in nodes:
        (x, y), groups = node["pos"], [group["bounding"] for group in workflow["groups"]]
        around = [g for g in groups if g[0] <= x < g[0] + g[2] and g[1] <= y < g[1] + g[3]]
        assert len(around) == (node not in notes)
    assert len(notes) == 1
    folders = ("diffusion_models", "vae", "audio_encoders", "text_encoders")
    released = (
        "hallo3 convert weights ComfyUI/models",
        "Hallo3 Doctor",
        *(f"models/{folder}" for folder in folders),
    )
    built_in = ("trained", "drawn faces", "Hallo3 talking portrait (released weights)")
    for said in released if "VAELoader" in awake.values() else built_in:
        assert said in notes[0]["widgets_values"][0]


def loaded_files(nodes: Iterable[dict[str, Any]]) -> set[str]:
    values = [value for node in nodes for value in node.get("widgets_values", []) if isinstance(value, str)]
    return {value for value in values if value.endswith(".safetensors")}


def test_the_released_weights_are_loaded_by_the_names_of_convert() -> None:
    parts = set(COMFYUI) - {"tokenizer"}
    precision = {part: "fp32" if part == "speech_encoder" else "bf16" for part in parts}
    names = {Path(COMFYUI[part].format(precision=precision[part])).name for part in parts}
    nodes = {path: loaded_files(read(path)["nodes"]) for path in WORKFLOWS}
    assert {path.stem: files for path, files in nodes.items() if files} == {
        "Hallo3 talking portrait (released weights)": names
    }
    inside = {path: read(path)["definitions"]["subgraphs"][0]["nodes"] for path in BLUEPRINTS}
    assert {path.stem: loaded_files(each) for path, each in inside.items() if loaded_files(each)} == {
        "Talking portrait (released weights)": names
    }


@pytest.mark.parametrize("path", [*WORKFLOWS, *BLUEPRINTS], ids=lambda path: path.stem)
def test_files_to_download_are_published_parts(path: Path) -> None:
    whole = read(path)
    inside = [each["nodes"] for each in whole.get("definitions", {}).get("subgraphs", [])]
    for node in itertools.chain(whole["nodes"], *inside):
        for model in node["properties"].get("models", []):
            assert (model["directory"], model["url"].removeprefix("https://huggingface.co/")) in [
                ("vae", "zai-org/CogVideoX-5b-I2V/resolve/main/vae/diffusion_pytorch_model.safetensors"),
                ("audio_encoders", "facebook/wav2vec2-base-960h/resolve/main/model.safetensors"),
            ]
            assert model["name"] in node["widgets_values"]


def test_apps_show_portrait_voice_and_prompt() -> None:
    """A name with .app is listed among ComfyUI's apps, and such a workflow opens as one."""
    for path in WORKFLOWS:
        workflow = read(path)
        extra, types = workflow["extra"], {node["id"]: node["type"] for node in workflow["nodes"]}
        if path.stem.endswith(".app"):
            assert extra["linearMode"] is True
        if extra:
            chosen = [(types[node], widget) for node, widget in extra["linearData"]["inputs"]]
            assert chosen == [("LoadImage", "image"), ("LoadAudio", "audio"), ("CLIPTextEncode", "text")]
            assert [types[node] for node in extra["linearData"]["outputs"]] == ["SaveVideo"]
    assert sum(bool(read(path)["extra"]) for path in WORKFLOWS) == 2


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_the_blueprint_fits_our_nodes(path: Path) -> None:
    whole = read(path)
    inner = whole["definitions"]["subgraphs"][0]
    assert whole["nodes"][0]["type"] == inner["id"]
    nodes = {node["id"]: node for node in inner["nodes"]}
    for node, spec in ours(inner["nodes"]):
        inputs = {each["id"]: each["type"] for each in spec["inputs"]}
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == inputs
    outlets = {inner["inputNode"]["id"]: inner["inputs"]} | {n: each["outputs"] for n, each in nodes.items()}
    inlets = {inner["outputNode"]["id"]: inner["outputs"]} | {n: each["inputs"] for n, each in nodes.items()}
    for link in inner["links"]:
        assert outlets[link["origin_id"]][link["origin_slot"]]["type"] == link["type"]
        assert inlets[link["target_id"]][link["target_slot"]]["type"] == link["type"]
