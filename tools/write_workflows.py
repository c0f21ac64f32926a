"""Write workflows/, workflows/api/ and subgraphs/: ``make workflows``.

Needs ComfyUI, playwright and Chromium. Opens every workflow in
ComfyUI's page and writes what the page would save, and its API form, because only the page knows some inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from comfyui.browser import Page, opened  # noqa: E402
from comfyui.server import Server  # noqa: E402
from comfyui.templates import bring_files, find_faults, find_low  # noqa: E402
from templates.examples import EXAMPLES, example  # noqa: E402
from templates.spec import Spec, read_specs  # noqa: E402
from templates.subgraph import BLUEPRINTS, blueprint  # noqa: E402

WORKFLOWS, SUBGRAPHS = ROOT / "workflows", ROOT / "subgraphs"


def write(path: Path, data: dict[str, Any]) -> None:
    """Write JSON with a line per node, link or group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (f"{json.dumps(key)}: {_lines(value)}" for key, value in data.items())
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(path.relative_to(ROOT))


def _lines(value: Any) -> str:
    items = [json.dumps(each, ensure_ascii=False) for each in value] if isinstance(value, list) else []
    return "[\n" + ",\n".join(items) + "\n]" if items else json.dumps(value, ensure_ascii=False)


def tidy(saved: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Remove the user's view, language and versions from a saved workflow."""
    for node in saved["nodes"]:
        for slot in (*node["inputs"], *node["outputs"]):
            slot.pop("localized_name", None)
        node["properties"].pop("ver", None)
        if node["type"] == "MarkdownNote":
            node.pop("widgets_values_named", None)  # the text once more
    saved["nodes"].sort(key=lambda node: node["id"])
    return saved | {"id": written["id"], "config": {}, "extra": written["extra"]}


def check(page: Page, name: str) -> None:
    """Exit if a workflow is broken, reports an error, or has a faulty layout."""
    boxes = page.boxes()
    wrong = [*page.faults(), *find_low(boxes), *find_faults(boxes, page.groups())]
    if wrong:
        raise SystemExit(f"{name}: " + "; ".join(wrong))


def write_example(page: Page, name: str, specs: dict[str, Spec], pictures: Path | None) -> None:
    written = example(name, specs).as_workflow()
    page.set_nodes_2(False)
    page.open(written, name)
    check(page, name)
    saved, prompt = page.export()
    write(WORKFLOWS / f"{name}.json", tidy(saved, written))
    write(WORKFLOWS / "api" / f"{name}.json", prompt)
    if pictures is not None:
        page.page.screenshot(path=str(pictures / f"{name}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots of the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            with bring_files(server.base):
                write_all(server.url, options.pictures)
        finally:
            server.stop()


def write_all(url: str, pictures: Path | None) -> None:
    """Write the blueprints and every workflow, with the nodes of a server."""
    specs = read_specs(url)
    for name in BLUEPRINTS:
        write(SUBGRAPHS / f"{name}.json", blueprint(name, specs))
    with opened(url) as page:
        for name in EXAMPLES:
            write_example(page, name, specs, pictures)


if __name__ == "__main__":
    main()
