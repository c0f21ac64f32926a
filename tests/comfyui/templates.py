"""The example workflows, and what a user brings to them: weights files, a portrait, a recording."""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from comfyui.host import REPOSITORY
from hallo3.built_in import FOLDER
from hallo3.checkpoints.locate import COMFYUI

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
OWN_FILES = {"LoadImage": ("image", "portrait.png"), "LoadAudio": ("audio", "speech.wav")}
"""Nodes whose file a user chooses: the widget, and the sample that tests choose."""
BUILT_IN = {"VAELoader": 2, "AudioEncoderLoader": 3, "CLIPLoader": 4}
"""For loaders of ComfyUI's own the output of Load Hallo3 Built-in that gives the same."""
MUTED = 2


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def api_form(path: Path) -> dict[str, Any]:
    """A workflow's prompt, with the user's files chosen."""
    prompt = read(path.parent / "api" / path.name)
    for node in prompt.values():
        if node["class_type"] in OWN_FILES:
            widget, name = OWN_FILES[node["class_type"]]
            node["inputs"][widget] = name
    return prompt


def needs_weights(path: Path) -> bool:
    """Whether a workflow loads files with ComfyUI's own loaders, which cannot load the built-in model's."""
    return any(node["type"] in BUILT_IN for node in read(path)["nodes"])


def with_files(path: Path) -> dict[str, Any]:
    """A workflow with the user's files chosen, and the built-in model's parts where ComfyUI loads files."""
    workflow = deepcopy(read(path))
    stand_in = {"id": 1000, "type": "Hallo3LoadBuiltIn", "pos": [-900, 0], "size": [280, 190], "mode": 0}
    for node in workflow["nodes"]:
        if node["type"] in OWN_FILES and node["mode"] != MUTED:
            widget, name = OWN_FILES[node["type"]]
            node["widgets_values"][0] = node["widgets_values_named"][widget] = name
        if node["type"] in BUILT_IN:
            node["mode"] = MUTED
            for link in workflow["links"]:
                if link[1] == node["id"]:
                    link[1:3] = [stand_in["id"], BUILT_IN[node["type"]]]
            node["outputs"][0]["links"] = []
    if needs_weights(path):
        workflow["nodes"].append(stand_in)
    return workflow


@contextmanager
def bring_files(base: Path) -> Iterator[None]:
    """While entered: the samples as the user's files, and a file for every name of ``hallo3 convert``. They
    are the built-in networks for Hallo3's, and empty for ComfyUI's, which offers and cannot load them."""
    targets: list[Path] = []
    for _, name in OWN_FILES.values():
        shutil.copy(REPOSITORY / "samples" / name, base / "input" / name)
    for part in ("transformer", "reference", "vae", "text_encoder", "speech_encoder"):
        precision = "fp32" if part == "speech_encoder" else "bf16"
        target = base / "models" / COMFYUI[part].format(precision=precision)
        target.parent.mkdir(parents=True, exist_ok=True)
        if part in ("transformer", "reference"):
            shutil.copy(FOLDER / f"{part}.safetensors", target)
        else:
            target.touch()
        targets.append(target)
    yield
    for target in targets:  # other tests look for what is missing
        target.unlink(missing_ok=True)


def find_low(boxes: list[dict[str, Any]]) -> list[str]:
    """Nodes that are too low for their content."""
    return [f"{each['name']} needs {each['least']} px" for each in boxes if each["least"] > each["high"] + 1]


def find_faults(boxes: list[dict[str, Any]], groups: list[dict[str, Any]]) -> list[str]:
    """Nodes or groups that overlap, and nodes that reach out of their group."""
    wrong = list[str]()
    for among in (boxes, groups):
        for one, other in itertools.combinations(among, 2):
            if _overlap(one["box"], other["box"]):
                wrong.append(f"{one['name']} overlaps {other['name']}")
    for each, group in itertools.product(boxes, groups):
        (x, y, width, height), (left, top, wide, high) = each["box"], group["box"]
        begins = left <= x < left + wide and top <= y < top + high
        if begins and (x + width > left + wide + 1 or y + height > top + high + 1):
            wrong.append(f"{each['name']} reaches out of {group['name']}")
    return wrong


def _overlap(one: list[float], other: list[float]) -> bool:
    (x, y, width, height), (left, top, wide, high) = one, other
    return x < left + wide and left < x + width and y < top + high and top < y + height
