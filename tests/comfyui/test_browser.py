"""The blueprints and the help pages in ComfyUI's own page, in a headless Chromium."""

import pytest

from comfyui.browser import Page, absent
from comfyui.server import Server
from comfyui.templates import WORKFLOWS, read

WHY = absent()
if WHY is not None:
    pytest.skip(f"NO BROWSER, BLUEPRINTS NOT TRIED IN THE PAGE: {WHY}", allow_module_level=True)
CORE = "Image to Video (Wan 2.2)"
"""A blueprint of ComfyUI's own that users look at."""


WIRE = """([networks, steps]) => {
  const [whole] = app.graph.nodes;
  const shown = whole.widgets.map(widget => [widget.name, widget.value]);
  const add = type => app.graph.add(LiteGraph.createNode(type));
  const [sample, save] = ['Hallo3Sample', 'SaveVideo'].map(add);
  const into = name => whole.inputs.findIndex(input => input.name === name);
  if (networks) {
    const set = add('Hallo3LoadBuiltIn');
    for (const slot of [0, 1, 2, 3]) set.connect(slot, whole, into(set.outputs[slot].name));
  }
  sample.connect(0, whole, into('portrait'));
  sample.connect(1, whole, into('audio'));
  whole.connect(0, save, 0);
  whole.widgets.find(widget => widget.name === 'steps').value = steps;
  return shown;
}"""
SHOWN = {"seed": 0, "steps": 0, "guidance_scale": 0, "paste_back": False}
PROMPT = {"prompt": "A person talks to the camera."}
FILES = {
    "model_name": "hallo3_transformer_bf16.safetensors",
    "reference_network_name": "hallo3_reference_bf16.safetensors",
    "vae_name": "hallo3_vae_bf16.safetensors",
    "audio_encoder_name": "hallo3_wav2vec2_base_fp32.safetensors",
    "clip_name": "hallo3_t5xxl_bf16.safetensors",
}


@pytest.mark.parametrize(
    ("name", "networks", "widgets"),
    [
        ("Talking portrait", True, SHOWN),
        ("Talking portrait (built-in)", False, PROMPT | SHOWN),
        ("Talking portrait (released weights)", False, FILES | PROMPT | SHOWN),
    ],
)
def test_a_blueprint_is_found_among_comfyuis_own_and_runs_as_one_node(
    page: Page, server: Server, name: str, networks: bool, widgets: dict[str, object]
) -> None:
    """But for the released weights, which are not here: they are looked for by the names of ``convert``."""
    listed = {each["name"]: key for key, each in server.get("/global_subgraphs").items()}
    category = {
        each: server.get(f"/global_subgraphs/{listed[each]}")["data"].split('"category": "')[1].split('"')[0]
        for each in (name, CORE)
    }
    assert category[name] == category[CORE]
    page.put(name)
    shown = dict(page.page.evaluate(WIRE, [networks, 3]))
    assert {key: shown[key] for key in widgets} == widgets
    nodes = page.export()[1].values()
    assert [node["inputs"]["steps"] for node in nodes if "steps" in node["inputs"]] == [3]
    if widgets.keys() & FILES.keys():
        given = [value for node in nodes for value in node["inputs"].values()]
        assert set(FILES.values()) <= {value for value in given if isinstance(value, str)}
    else:
        page.run()
    assert page.faults() == []


def test_a_node_shows_its_help_page(page: Page) -> None:
    path = next(path for path in WORKFLOWS if path.stem == "Hallo3 talking portrait")
    page.open(read(path), path.stem)
    assert "continues from the last frames of the previous one" in page.open_help("Hallo3Extrapolate")
    assert page.problems == []
