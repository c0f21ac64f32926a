"""The example workflows in ComfyUI's own page, in a headless Chromium, in both of its styles."""

from pathlib import Path
from typing import Any

import pytest

from comfyui.browser import Page, absent
from comfyui.server import PACK, Server
from comfyui.templates import WORKFLOWS, find_faults, find_low, needs_weights, read, with_files

WHY = absent()
if WHY is not None:
    pytest.skip(f"NO BROWSER, WORKFLOWS NOT TRIED IN THE PAGE: {WHY}", allow_module_level=True)

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
VIDEOS = {"Hallo3 continue a video": 2, "Hallo3 several portraits": 3}


def open_graph(page: Page, workflow: dict[str, Any], name: str, *, nodes_2: bool) -> None:
    """Open the graph, also of an app."""
    page.set_nodes_2(nodes_2)
    page.open(workflow | {"extra": workflow["extra"] | {"linearMode": False}}, name)


def check(page: Page) -> None:
    assert find_faults(page.boxes(), page.groups()) == []
    assert "failed to load" not in page.page.inner_text("body")
    assert page.faults() == []


@every_workflow
def test_a_workflow_opens_and_runs_and_nothing_leaves_its_group(
    page: Page, server: Server, path: Path
) -> None:
    """Nodes grow by what a run shows on them, in each style of the page by something else. ComfyUI's own
    nodes may have other widgets in another version."""

    def facts(prompt: dict[str, Any]) -> dict[str, Any]:
        nodes = [(key, node["class_type"], node["inputs"]) for key, node in prompt.items()]
        return {key: (kind, kind.startswith("Hallo3") and inputs) for key, kind, inputs in nodes}

    for nodes_2 in (False, True):
        open_graph(page, read(path), path.stem, nodes_2=nodes_2)
        check(page)
        assert find_low(page.boxes()) == []
        assert facts(page.export()[1]) == facts(read(path.parent / "api" / path.name))
        open_graph(page, with_files(path), path.stem, nodes_2=nodes_2)
        server.post("/free", {"free_memory": True})  # each node runs again
        outputs = server.finished(page.run()["prompt_id"])["outputs"].values()
        page.page.wait_for_timeout(1500)
        check(page)
        files = [file for output in outputs for file in output.get("images", []) if file["type"] == "output"]
        assert [Path(file["filename"]).suffix for file in files] == [".mp4"] * VIDEOS.get(path.stem, 1)
        for file in files:
            assert (server.base / "output" / file["subfolder"] / file["filename"]).stat().st_size > 1000


@every_workflow
def test_a_workflow_opens_from_the_template_browser(page: Page, server: Server, path: Path) -> None:
    page.set_nodes_2(False)
    assert path.stem in server.get("/api/workflow_templates")[PACK]
    page.open_template(PACK, path.stem)
    assert {node["type"] for node in page.export()[0]["nodes"]} == {n["type"] for n in read(path)["nodes"]}
    assert page.faults() == []


def test_the_app_shows_portrait_voice_and_prompt_and_then_the_video(page: Page) -> None:
    path = next(path for path in WORKFLOWS if path.stem.endswith(".app"))
    page.open(read(path), path.stem)
    page.page.wait_for_timeout(1000)
    assert not page.page.get_by_text("Read me").is_visible()  # no graph
    labels = ("portrait", "voice", "prompt")
    shown = [page.page.get_by_text(label, exact=True).first for label in labels]
    heights = [label.bounding_box()["y"] for label in shown]
    assert heights == sorted(heights)
    page.open(with_files(path), path.stem)
    page.run()
    page.page.wait_for_function("() => document.querySelector('video')?.videoWidth === 480", timeout=30_000)
    assert page.faults() == []


def test_owners_of_the_released_weights_find_an_app_too(page: Page) -> None:
    path = next(path for path in WORKFLOWS if needs_weights(path))
    page.open(read(path), path.stem)
    chosen = page.page.evaluate("() => app.graph.extra.linearData")
    types = {node["id"]: node["type"] for node in read(path)["nodes"]}
    names = [(types[int(str(node).split(":")[-1])], widget) for node, widget, *_ in chosen["inputs"]]
    assert names == [("LoadImage", "image"), ("LoadAudio", "audio"), ("CLIPTextEncode", "text")]
