"""Write workflows/, workflows/api/ and subgraphs/: ``make workflows``.

Needs ComfyUI, playwright and Chromium; starts a server unless --server is given. Opens every workflow in
ComfyUI's page and writes what the page would save, and its API form, because only the page knows some inputs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

from comfyui.browser import Page, opened  # noqa: E402
from comfyui.server import Server  # noqa: E402
from templates.examples import EXAMPLES, example  # noqa: E402
from templates.spec import Spec, read_specs  # noqa: E402
from templates.subgraph import NAME, blueprint  # noqa: E402

WORKFLOWS, SUBGRAPHS = ROOT / "workflows", ROOT / "subgraphs"


def write(path: Path, data: Any) -> None:
    """Write indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


def tidy(saved: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Remove the user's view, language and versions from a saved workflow."""
    for node in saved["nodes"]:
        for slot in (*node["inputs"], *node["outputs"]):
            slot.pop("localized_name", None)
        node["properties"].pop("ver", None)
    saved["nodes"].sort(key=lambda node: node["id"])
    return saved | {"id": written["id"], "config": {}, "extra": {}}


def check(page: Page, name: str) -> None:
    """Exit if a workflow is broken, reports an error, or has overlapping nodes."""
    wrong = [*page.broken(), *page.problems, *page.shown(), *find_overlaps(page.boxes())]
    if wrong:
        raise SystemExit(f"{name}: " + "; ".join(wrong))


def find_overlaps(boxes: list[dict[str, Any]]) -> list[str]:
    """Problems: nodes that overlap, and nodes that are too low for their content."""
    wrong = [f"{each['name']} needs {each['least']} px" for each in boxes if each["least"] > each["high"] + 1]
    for a, b in itertools.combinations(boxes, 2):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a["box"], b["box"]
        if ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah:
            wrong.append(f"{a['name']} overlaps {b['name']}")
    return wrong


def write_example(page: Page, name: str, specs: dict[str, Spec], pictures: Path | None) -> None:
    written = example(name, specs).as_workflow()
    page.open(written, name)
    check(page, name)
    saved, prompt = page.export()
    write(WORKFLOWS / f"{name}.json", tidy(saved, written))
    write(WORKFLOWS / "api" / f"{name}.json", prompt)
    if pictures is not None:
        page.page.screenshot(path=str(pictures / f"{name}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="URL of a running ComfyUI with this pack")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots of the page")
    options = parser.parse_args()
    if options.server:
        write_all(options.server, options.pictures)
        return
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            write_all(server.url, options.pictures)
        finally:
            server.stop()


def write_all(url: str, pictures: Path | None) -> None:
    """Write the blueprint and every workflow, with the nodes of a server."""
    specs = read_specs(url)
    write(SUBGRAPHS / f"{NAME}.json", blueprint(specs))
    with opened(url) as page:
        for name in EXAMPLES:
            write_example(page, name, specs, pictures)


if __name__ == "__main__":
    main()
