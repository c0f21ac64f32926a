"""What saved workflows rely on, and the English texts: ``make contract`` writes both."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).resolve().parents[1] / "data" / "nodes.json"
HELP = Path(__file__).resolve().parents[2] / "web" / "docs"
TEXTS = Path(__file__).resolve().parents[2] / "locales" / "en" / "nodeDefs.json"


def contract_of(host: Any) -> dict[str, Any]:
    """Every node's contract, in menu order."""
    return {node.GET_SCHEMA().node_id: _node(node) for node in host.module("nodes.extension").NODES}


def texts_of(host: Any) -> dict[str, Any]:
    """The nodes' own texts in the form of ComfyUI's locale files."""
    return {
        node.GET_SCHEMA().node_id: _texts(node.GET_SCHEMA()) for node in host.module("nodes.extension").NODES
    }


def _texts(schema: Any) -> dict[str, Any]:
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    outputs = {str(n): {"name": o.display_name, "tooltip": o.tooltip} for n, o in enumerate(schema.outputs)}
    texts = {"display_name": schema.display_name, "description": schema.description}
    return texts | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def _node(node: Any) -> dict[str, Any]:
    schema = node.GET_SCHEMA()
    info = node.GET_NODE_INFO_V1()
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    order = [*info["input_order"].get("required", []), *info["input_order"].get("optional", [])]
    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [_input(name, inputs[name], name in info["input"].get("required", {})) for name in order],
        "outputs": [{"id": o.id, "type": o.get_io_type()} for o in schema.outputs],
    }


def _input(name: str, entry: Any, required: bool) -> dict[str, Any]:
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    values = {key: options[key] for key in ("default", "min", "max", "step", "advanced") if key in options}
    if options.get("forceInput"):  # a socket has no value of its own, whatever ComfyUI writes
        values.pop("default", None)
    choices = options.get("options", [])
    files = "built-in" in choices
    return {
        "id": name,
        "type": kind if isinstance(kind, str) else "COMBO",
        "required": required,
        **values,
        **({"options": ["built-in"] if files else choices} if choices else {}),
    }


if __name__ == "__main__":
    from comfyui.host import Host

    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        written = {CONTRACT: contract_of(host), TEXTS: texts_of(host)}
    for page in HELP.glob("*/en.md"):  # what a page in any other language falls back to
        page.parent.with_suffix(".md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    for path, content in written.items():
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
