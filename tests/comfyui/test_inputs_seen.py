"""What a user finds and reads on the nodes, and old workflows, in both styles of ComfyUI's page."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from comfyui.browser import EMPTY, ENDED, Page, absent, opened
from comfyui.client import SIMPLE, node
from comfyui.host import REPOSITORY
from comfyui.server import Server

WHY = absent()
if WHY is not None:
    pytest.skip(f"NO BROWSER, INPUTS NOT SEEN: {WHY}", allow_module_level=True)
TALKING_PORTRAIT = REPOSITORY / "workflows" / "Hallo3 talking portrait.json"
OLD = json.loads((REPOSITORY / "tests" / "data" / "old_workflows.json").read_text(encoding="utf-8"))
"""``five stages`` as it was delivered, ``every node`` by hand with other ``values`` than the default, both
saved before Hallo3 Extrapolate was shown as Hallo3 Talking Video."""

VALUES = """() => Object.fromEntries(app.graph.nodes.map(node => [node.type, Object.fromEntries(
  (node.widgets ?? []).map(widget => [widget.name, widget.value]))]))"""
FOUND = """() => [...document.querySelectorAll('[role="option"], [data-testid^="result-item"]')]
  .filter(each => each.checkVisibility()).map(each => each.textContent.trim())"""
GREY = """() => {
  const identity = app.graph.nodes.find(node => node.type === 'Hallo3IdentityReference');
  const grey = LiteGraph.createNode('EmptyImage');
  app.graph.add(grey);
  grey.connect(0, identity, identity.inputs.findIndex(input => input.name === 'portrait'));
}"""
ADD = """types => types.map((type, place) => {
  const node = LiteGraph.createNode(type);
  node.pos = [100 + 420 * place, 200];
  app.graph.add(node);
  return (node.widgets ?? []).map(widget => [widget.name, widget.label ?? widget.name, widget.value]);
})"""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes 2.0"])
def page(server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    with opened(server.url, nodes_2=request.param) as page:
        yield page


@pytest.mark.parametrize("words", ["audio driven", "talking head", "talking video", "说话", "数字人", "口型"])
def test_the_main_node_is_the_first_that_is_found(page: Page, words: str) -> None:
    page.open(EMPTY, "empty")
    page.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.page.keyboard.type(words)
    page.page.wait_for_timeout(1500)
    found = page.page.evaluate(FOUND)
    page.page.keyboard.press("Escape")
    assert "Hallo3 Talking Video" in found[0], found


def test_old_workflows_keep_their_values_and_links(page: Page) -> None:
    page.open(OLD["every node"], "every node")
    values: dict[str, Any] = page.page.evaluate(VALUES)
    for kind, saved in OLD["values"].items():
        assert saved.items() <= values[kind].items(), kind
    prompt = page.export()[1]
    identity = {each["class_type"]: each["inputs"] for each in prompt.values()}["Hallo3IdentityReference"]
    assert identity["face_mask"] == ["18", 0]
    assert "face_analyzer" not in identity


def test_an_old_workflow_runs(page: Page) -> None:
    page.open(OLD["five stages"], "five stages")
    assert page.broken() == []
    page.run()


OPTIONS = """async () => {
  await app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions');
  return app.graph.nodes.map(node => node.widgets.find(widget => widget.name === 'file'))
    .filter(widget => widget).flatMap(widget => widget.options.values);
}"""


def test_an_empty_list_of_identities_says_what_to_do_and_a_saved_one_is_listed(
    page: Page, server: Server
) -> None:
    folder = server.base / "output" / "hallo3_identities"
    shutil.rmtree(folder, ignore_errors=True)
    page.start()  # which asks for the lists
    page.open(EMPTY, "empty")
    identity, sampler = page.page.evaluate(ADD, ["Hallo3LoadIdentity", "Hallo3Sampler"])
    assert [value for *_, value in identity] == ["none yet: use Save Hallo3 Identity"]
    assert ["segment", "segments before", 0] in sampler
    inputs = {"identity": ["identity", 0], "model": ["set", 0], "filename_prefix": "anna"}
    prompt = {name: SIMPLE[name] for name in ("sample", "set", "identity")}
    loaded = {
        "1": node("Hallo3LoadIdentity", file=identity[0][-1]),
        "2": node("PreviewImage", images=["1", 1]),
    }
    assert "There is no saved identity yet" in json.dumps(server.post("/prompt", {"prompt": loaded}))
    server.run(prompt | {"save": node("Hallo3SaveIdentity", **inputs)})
    assert page.page.evaluate(OPTIONS) == ["hallo3_identities/anna_00001_.safetensors [output]"]


def test_a_picture_without_a_drawn_face_is_refused_in_its_first_words(page: Page) -> None:
    page.open(json.loads(TALKING_PORTRAIT.read_text(encoding="utf-8")), TALKING_PORTRAIT.stem)
    page.page.evaluate(GREY)
    event, detail = page.page.evaluate(ENDED)
    assert event == "execution_error"
    assert detail["exception_type"] == "hallo3.FaceError"
    assert detail["exception_message"].startswith("Drawn faces only: none is in this picture.")
    assert "`no_face`: whole picture" in detail["exception_message"]
