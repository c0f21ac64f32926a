"""What a new user sees on the nodes, in both styles of ComfyUI's page."""

import json
from collections.abc import Iterator

import pytest

from comfyui.browser import Page, absent, opened
from comfyui.host import REPOSITORY
from comfyui.server import Server

WHY = absent()
if WHY is not None:
    pytest.skip(f"NO BROWSER, NODES NOT SEEN: {WHY}", allow_module_level=True)
TALKING_PORTRAIT = REPOSITORY / "workflows" / "Hallo3 talking portrait.json"

PICTURES = """async type => {
  const node = app.graph.nodes.find(node => node.type === type);
  const drawn = [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)];
  return (drawn.length ? drawn : node.imgs ?? []).map(image => image.naturalWidth);
}"""
"""Widths of the pictures on a node, in either style."""
SET = """([type, name, value]) => {
  app.graph.nodes.find(node => node.type === type).widgets.find(widget => widget.name === name).value = value;
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes 2.0"])
def page(server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    with opened(server.url, nodes_2=request.param, previews="none") as page:
        yield page


def test_the_last_finished_segment_is_seen_without_a_preview_method(page: Page) -> None:
    page.open(json.loads(TALKING_PORTRAIT.read_text(encoding="utf-8")), TALKING_PORTRAIT.stem)
    assert page.page.evaluate(PICTURES, "Hallo3Extrapolate") == []
    seed = 41 + len(page.page.query_selector_all("[data-node-id]"))  # another one in each style
    page.page.evaluate(SET, ["Hallo3Extrapolate", "seed", seed])
    page.run()
    page.page.wait_for_timeout(1000)
    assert page.page.evaluate(PICTURES, "Hallo3Extrapolate") == [512]
    assert page.problems == []


ADD = """() => {
  const add = (type, x) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, 100];
    node.setSize([520, 700]);
    app.graph.add(node);
    return node;
  };
  const plan = add('Hallo3Plan', 700);
  add('Hallo3Sample', 100).connect(1, plan, 'audio');
  plan.widgets.find(widget => widget.name === 'model').value = 'built-in';
  add('Hallo3Doctor', 1300);
}"""
EMPTY = {"version": 0.4, "nodes": [], "links": [], "groups": [], "last_node_id": 0, "last_link_id": 0}


def test_the_plan_and_doctors_report_are_read_on_their_nodes_line_by_line(page: Page) -> None:
    page.open(EMPTY, "plan and doctor")
    page.page.evaluate(ADD)
    page.page.evaluate(SET, ["Hallo3Plan", "steps", 1 + len(page.page.query_selector_all("[data-node-id]"))])
    page.run()
    page.page.wait_for_timeout(1000)
    lines = [line.strip() for line in page.page.inner_text("body").splitlines()]
    for beginning in ("model", "segments", "disk", "GPU", "MISSING"):
        assert any(line.startswith(beginning) for line in lines), (beginning, lines)
    assert page.problems == []
