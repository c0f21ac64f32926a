"""Write workflows/, workflows/api/ and subgraphs/: ``make workflows``.

Needs ComfyUI, playwright and Chromium; starts a server of its own unless one is named. Every workflow is
opened in ComfyUI's page, and what the page itself would save is written; its API form too, since some nodes'
inputs only the page knows.
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
    """JSON, readable and the same every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


def tidy(saved: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """A saved workflow without this user's view, language and versions."""
    for node in saved["nodes"]:
        for slot in (*node["inputs"], *node["outputs"]):
            slot.pop("localized_name", None)
        node["properties"].pop("ver", None)
    saved["nodes"].sort(key=lambda node: node["id"])
    return saved | {"id": written["id"], "config": {}, "extra": {}}


def check(page: Page, name: str) -> None:
    """Stop at a workflow that is broken, reports an error, or whose nodes lie on each other."""
    wrong = [*page.broken(), *page.problems, *page.shown(), *overlaps(page.boxes())]
    if wrong:
        raise SystemExit(f"{name}: " + "; ".join(wrong))


def overlaps(boxes: list[dict[str, Any]]) -> list[str]:
    """Nodes that lie on each other, and nodes that are too low for what they show."""
    wrong = [f"{each['name']} needs {each['least']} px" for each in boxes if each["least"] > each["high"] + 1]
    for a, b in itertools.combinations(boxes, 2):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a["box"], b["box"]
        if ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah:
            wrong.append(f"{a['name']} lies on {b['name']}")
    return wrong


def write_example(page: Page, name: str, specs: dict[str, Spec], pictures: Path | None) -> None:
    """Both forms of a workflow."""
    written = example(name, specs).as_workflow()
    page.open(written, name)
    check(page, name)
    saved, prompt = page.export()
    write(WORKFLOWS / f"{name}.json", tidy(saved, written))
    write(WORKFLOWS / "api" / f"{name}.json", prompt)
    if pictures is not None:
        page.page.screenshot(path=str(pictures / f"{name}.png"))


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="a ComfyUI with this pack that runs already")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the page")
    given = parser.parse_args()
    if given.server:
        write_all(given.server, given.pictures)
        return
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            write_all(server.url, given.pictures)
        finally:
            server.stop()


def write_all(url: str, pictures: Path | None) -> None:
    """The blueprint and every workflow, with the nodes of a server."""
    specs = read_specs(url)
    write(SUBGRAPHS / f"{NAME}.json", blueprint(specs))
    with opened(url) as page:
        for name in EXAMPLES:
            write_example(page, name, specs, pictures)


if __name__ == "__main__":
    main()
