"""The example workflows against the nodes as they are, without ComfyUI: UI form, API form, blueprint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
NODES: dict[str, Any] = json.loads((ROOT / "tests/data/nodes.json").read_text(encoding="utf-8"))
MACHINE = re.compile(r"/(home|root|tmp|work|Users|mnt|usr)/|[A-Z]:\\\\|127\.0\.0\.1|localhost")
WIDGETS = ("INT", "FLOAT", "COMBO", "STRING", "BOOLEAN")
MUTED, BYPASSED = 2, 4

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


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
        return value in spec["options"]
    if spec["type"] not in ("INT", "FLOAT"):
        return isinstance(value, str | bool)
    return isinstance(value, int | float) and spec["min"] <= value <= spec["max"]


def test_every_workflow_has_an_api_form_and_no_other_is_left() -> None:
    assert len(WORKFLOWS) == 5
    assert {twin(path) for path in WORKFLOWS} == set((ROOT / "workflows" / "api").glob("*.json"))


@pytest.mark.parametrize("path", [*WORKFLOWS, *map(twin, WORKFLOWS), *BLUEPRINTS], ids=lambda path: path.name)
def test_no_machine_is_named(path: Path) -> None:
    assert not MACHINE.search(path.read_text(encoding="utf-8"))


@every_workflow
def test_the_ui_form_fits_our_nodes(path: Path) -> None:
    for node, spec in ours(read(path)["nodes"]):
        inputs = {each["id"]: each for each in spec["inputs"]}
        for slot in node["inputs"]:
            assert slot["type"] == inputs[slot["name"]]["type"]
        types = [each["type"] for each in node["outputs"]]
        assert types == [each["type"] for each in spec["outputs"]]
        widgets = [each for each in spec["inputs"] if each["type"] in WIDGETS]
        values = [value for value in node.get("widgets_values", []) if value != "fixed"]
        assert len(values) == len(widgets)
        for value, widget in zip(values, widgets, strict=True):
            assert fits(value, widget), f"{node['type']}.{widget['id']} = {value}"


@every_workflow
def test_links_of_the_ui_form_agree(path: Path) -> None:
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    for link, source, outlet, target, inlet, kind in workflow["links"]:
        start, end = nodes[source]["outputs"][outlet], nodes[target]["inputs"][inlet]
        assert start["type"] == end["type"] == kind
        assert link in start["links"]
        assert end["link"] == link


@every_workflow
def test_the_api_form_fits_our_nodes(path: Path) -> None:
    prompt = read(twin(path))
    for node in prompt.values():
        if not node["class_type"].startswith("Hallo3"):
            continue
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
def test_both_forms_hold_the_same_nodes(path: Path) -> None:
    awake = {
        str(node["id"]): node["type"]
        for node in read(path)["nodes"]
        if node["mode"] not in (MUTED, BYPASSED) and node["type"] != "MarkdownNote"
    }
    assert awake == {name: node["class_type"] for name, node in read(twin(path)).items()}
    assert "SaveVideo" in awake.values()


@every_workflow
def test_a_note_says_what_to_do_and_where_weights_go(path: Path) -> None:
    notes = [node for node in read(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    text = notes[0]["widgets_values"][0]
    folders = ("diffusion_models", "vae", "audio_encoders", "text_encoders")
    for said in ("trained", "drawn faces", *(f"models/{folder}" for folder in folders)):
        assert said in text


@every_workflow
def test_files_to_download_are_named_by_their_addresses(path: Path) -> None:
    """Nodes that need a file are muted, so that the page does not ask for it."""
    for node in read(path)["nodes"]:
        for model in node["properties"].get("models", []):
            assert node["mode"] == MUTED
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith("/" + model["name"])
            assert model["name"].endswith(".safetensors")
            assert model["name"] in node["widgets_values"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_the_blueprint_fits_our_nodes(path: Path) -> None:
    whole = read(path)
    inner = whole["definitions"]["subgraphs"][0]
    assert whole["nodes"][0]["type"] == inner["id"]
    nodes = {node["id"]: node for node in inner["nodes"]}
    for node, spec in ours(inner["nodes"]):
        inputs = {each["id"]: each["type"] for each in spec["inputs"]}
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == inputs
    for link in inner["links"]:
        outside = link["origin_id"] == inner["inputNode"]["id"]
        slots = inner["inputs"] if outside else nodes[link["origin_id"]]["outputs"]
        assert slots[link["origin_slot"]]["type"] == link["type"]
        outside = link["target_id"] == inner["outputNode"]["id"]
        slots = inner["outputs"] if outside else nodes[link["target_id"]]["inputs"]
        assert slots[link["target_slot"]]["type"] == link["type"]


@every_workflow
def test_every_workflow_has_a_thumbnail(path: Path) -> None:
    """``make pictures`` makes them."""
    assert path.with_suffix(".jpg").read_bytes()[:2] == b"\xff\xd8"
    assert path.with_suffix(".jpg").stat().st_size < 100_000
