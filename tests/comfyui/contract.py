"""What saved workflows rely on; ``make contract`` records it."""

import json
import tempfile
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).resolve().parents[1] / "data" / "nodes.json"
HELP = Path(__file__).resolve().parents[2] / "web" / "docs"


def contract_of(host: Any) -> dict[str, Any]:
    return {node.GET_SCHEMA().node_id: _node(node) for node in host.module("nodes.extension").NODES}


def _node(node: Any) -> dict[str, Any]:
    schema, info = node.GET_SCHEMA(), node.GET_NODE_INFO_V1()
    order = [(name, kind) for kind in ("required", "optional") for name in info["input_order"].get(kind, [])]
    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [_input(name, info["input"][kind][name], kind == "required") for name, kind in order],
        "outputs": [{"id": o.id, "type": o.get_io_type()} for o in schema.outputs],
    }


def _input(name: str, entry: Any, required: bool) -> dict[str, Any]:
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    values = {key: options[key] for key in ("default", "min", "max", "step", "advanced") if key in options}
    if options.get("forceInput"):  # a socket has no value of its own, whatever ComfyUI writes
        values.pop("default", None)
    if (choices := options.get("options")) and name != "file":  # an identity's, whatever was saved
        values["options"] = ["built-in"] if "built-in" in choices else choices  # the others are files
    return {"id": name, "type": kind if isinstance(kind, str) else "COMBO", "required": required, **values}


if __name__ == "__main__":
    from comfyui.host import Host

    with tempfile.TemporaryDirectory() as folder:
        contract = json.dumps(contract_of(Host(Path(folder))), indent=2, ensure_ascii=False)
    CONTRACT.write_text(contract + "\n", encoding="utf-8")
    for page in HELP.glob("*/en.md"):  # the page for languages without their own
        page.parent.with_suffix(".md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
