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
