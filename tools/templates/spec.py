"""What workflows need to know of a node, out of ComfyUI's ``/object_info``."""

from __future__ import annotations

import json
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
AUTOGROW = "COMFY_AUTOGROW_V3"


@dataclass(frozen=True)
class Input:
    """A socket or a widget. One that grows stands for sockets called NAME.PART."""

    name: str
    type: str
    widget: bool
    optional: bool
    default: Any = None
    seed: bool = False

    @property
    def grows(self) -> bool:
        return self.type == AUTOGROW


@dataclass(frozen=True)
class Output:
    """A socket."""

    name: str
    type: str


@dataclass(frozen=True)
class Spec:
    """A node's inputs, in order, and outputs. ``pack`` is where it comes from."""

    name: str
    pack: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


def read_specs(url: str) -> dict[str, Spec]:
    """Every node of a server."""
    with urllib.request.urlopen(url + "/object_info", timeout=60) as answer:
        info = json.load(answer)
    return {name: _spec(name, node) for name, node in info.items()}


def pack_name() -> str:
    """This pack's name in the registry."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]


def _spec(name: str, node: dict[str, Any]) -> Spec:
    inputs = [
        _input(key, value, optional=part == "optional")
        for part in ("required", "optional")
        for key, value in node["input"].get(part, {}).items()
    ]
    outputs = zip(node["output_name"], node["output"], strict=True)
    made = [Output(called, kind if isinstance(kind, str) else "COMBO") for called, kind in outputs]
    return Spec(name, pack_name() if name.startswith("Hallo3") else "comfy-core", tuple(inputs), tuple(made))


def _input(name: str, given: list[Any], *, optional: bool) -> Input:
    kind, options = given[0], given[1] if len(given) > 1 else {}
    default = options.get("default")
    if isinstance(kind, list):
        kind, default = "COMBO", default or next(iter(kind), "")
    elif kind == "COMBO":
        default = default or next(iter(options.get("options", [])), "")
    elif kind == "COMFY_DYNAMICCOMBO_V3":
        default = options["options"][0]["key"]
    elif kind == "STRING":
        default = default or ""
    elif kind == "BOOLEAN":
        default = bool(default)
    widget = kind in WIDGETS and not options.get("forceInput", False)
    return Input(name, kind, widget, optional, default, bool(options.get("control_after_generate")))
