"""The example workflows in ComfyUI's own page, in a headless Chromium."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyui.browser import Page, absent, opened
from comfyui.host import REPOSITORY
from comfyui.server import PACK, Server

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
WHY = absent()
if WHY is not None:
    pytest.skip(f"NO BROWSER, WORKFLOWS NOT TRIED IN THE PAGE: {WHY}", allow_module_level=True)

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Page]:
    with opened(server.url) as page:
        yield page


@pytest.fixture
def page(session: Page) -> Page:
    session.problems.clear()
    return session


def healthy(page: Page) -> None:
    """Nothing is missing or broken, no error is shown, the console is quiet."""
    assert (page.broken(), page.shown(), page.problems) == ([], [], [])


@every_workflow
def test_a_workflow_opens_exports_its_api_form_and_runs(page: Page, server: Server, path: Path) -> None:
    """Nothing lies on something else. ComfyUI's own nodes may have other widgets in another version."""
    page.open(read(path), path.stem)
    healthy(page)
    boxes = page.boxes()
    assert [each["name"] for each in boxes if each["least"] > each["high"] + 1] == []
    for one, other in itertools.combinations(boxes, 2):
        (x, y, width, height), (left, top, wide, high) = one["box"], other["box"]
        apart = x + width <= left or left + wide <= x or y + height <= top or top + high <= y
        assert apart, f"{one['name']} lies on {other['name']}"

    def facts(prompt: dict[str, Any]) -> dict[str, Any]:
        nodes = [(key, node["class_type"], node["inputs"]) for key, node in prompt.items()]
        return {key: (kind, kind.startswith("Hallo3") and inputs) for key, kind, inputs in nodes}

    assert facts(page.export()[1]) == facts(read(path.parent / "api" / path.name))
    outputs = server.finished(page.run()["prompt_id"])["outputs"].values()
    files = [file for output in outputs for file in output.get("images", []) if file["type"] == "output"]
    assert [Path(file["filename"]).suffix for file in files] == [".mp4"]
    assert (server.base / "output" / files[0]["subfolder"] / files[0]["filename"]).stat().st_size > 1000
    healthy(page)


@every_workflow
def test_a_workflow_opens_from_the_template_browser(page: Page, server: Server, path: Path) -> None:
    assert path.stem in server.get("/api/workflow_templates")[PACK]
    page.open_template(PACK, path.stem)
    assert {node["type"] for node in page.export()[0]["nodes"]} == {n["type"] for n in read(path)["nodes"]}
    healthy(page)


WIRE = """() => {
  const [whole] = app.graph.nodes;
  const add = type => app.graph.add(LiteGraph.createNode(type));
  const [set, sample, save] = ['Hallo3LoadBuiltIn', 'Hallo3Sample', 'SaveVideo'].map(add);
  const into = name => whole.inputs.findIndex(input => input.name === name);
  set.outputs.forEach((output, slot) => set.connect(slot, whole, into(output.name)));
  sample.connect(0, whole, into('portrait'));
  sample.connect(1, whole, into('audio'));
  whole.connect(0, save, 0);
  whole.widgets.find(widget => widget.name === 'steps').value = 3;
}"""


def test_the_blueprint_is_found_and_runs_as_one_node(page: Page, server: Server) -> None:
    listed = [each for each in server.get("/global_subgraphs").values() if PACK in each["info"]["node_pack"]]
    assert [each["name"] for each in listed] == ["Talking portrait"]
    page.put("Talking portrait")
    page.page.evaluate(WIRE)
    nodes = page.export()[1].values()
    assert [node["inputs"]["steps"] for node in nodes if "steps" in node["inputs"]] == [3]
    page.run()
    healthy(page)


def test_a_node_shows_its_help_page(page: Page) -> None:
    path = next(path for path in WORKFLOWS if "talking portrait" in path.stem)
    page.open(read(path), path.stem)
    assert "continues from the last frames of the previous one" in page.open_help("Hallo3Extrapolate")
    assert page.problems == []
