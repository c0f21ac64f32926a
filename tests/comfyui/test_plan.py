"""Hallo3 Plan takes its values from the node that renders, tells the device's memory, and refuses."""

from typing import Any

import pytest

from comfyui.client import SIMPLE, node, simple
from comfyui.host import Host
from comfyui.server import Server

TYPED = {"model": "Hallo3", "steps": 7, "guidance_scale": 2.0}
GB = 10**9


def planned(server: Server, **changes: Any) -> str:
    plan = node("Hallo3Plan", audio=["sample", 1], **TYPED)
    prompt = simple(plan=plan, speech__audio=["plan", 0], **changes)
    return server.run(prompt)["outputs"]["plan"]["text"][0]


def test_values_come_from_the_connected_graph_and_are_typed_once(server: Server) -> None:
    text = planned(server, extrapolate__seed=50)
    assert "for       the settings of Hallo3 Talking Video" in text
    assert "model     built-in, 4 steps, guidance 1\n" in text
    assert "163 frames, 6.52 s, 64 x 64" in text
    text = planned(server, extrapolate__seed=50, extrapolate__paste_back=True)
    assert "64 x 64 without paste_back: connect portrait\n" in text
    text = planned(server, extrapolate__seed=50, extrapolate__steps=0, extrapolate__guidance_scale=2.5)
    assert "model     built-in, 1 steps, guidance 2.5\n" in text, "what is set otherwise is planned again"


def test_a_schedule_a_guider_and_connected_images_count(server: Server) -> None:
    schedule = node("Hallo3OriginalSchedule", model=["set", 0], steps=3)
    text = planned(
        server,
        schedule=schedule,
        shown=node("PreviewImage", images=["extrapolate", 1]),
        extrapolate__sigmas=["schedule", 0],
        extrapolate__seed=51,
    )
    assert "built-in, 3 steps" in text
    assert "for this speech" in text, "images need memory by length"


def test_alone_it_uses_its_own_values(server: Server) -> None:
    plan = node("Hallo3Plan", audio=["sample", 1], **TYPED | {"model": "built-in"})
    text = server.run({"sample": SIMPLE["sample"], "plan": plan})["outputs"]["plan"]["text"][0]
    assert "for       this node's own settings" in text
    assert "model     built-in, 7 steps, guidance 2\n" in text
    assert "GPU       none" in text
    assert "Hallo3 Doctor with `measure`" in text or "as this device was measured" in text


@pytest.mark.parametrize(
    ("ram", "gpu", "told"),
    [
        (24, 0, "24.0 GB of RAM\n"),
        (12, 12, "12.0 GB of RAM and 12.0 GB on the GPU"),
        (64, 1, "does not fit on the GPU"),
        (64, 24, ""),
        (24, 24, ""),
    ],
)
def test_what_cannot_fit_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, ram: int, gpu: int, told: str
) -> None:
    memory, config = host.module("nodes.comfy.memory"), host.module("hallo3.config")
    weights = host.module("nodes.plan")._released_weights(prompt=True)
    assert round(sum(weights.values()) / GB) == 28
    sizes = {"cpu": ram * GB, "cuda": gpu * GB}
    device = memory.torch.device("cuda" if gpu else "cpu")
    monkeypatch.setattr(memory.mm, "get_torch_device", lambda: device)
    monkeypatch.setattr(memory.mm, "get_total_memory", lambda each: sizes[each.type])
    if not told:
        line = memory.device_memory(config.HALLO3, weights)
        assert line.startswith("GPU       24.0 GB: 1.5 GB per guidance branch of a step")
        return
    with pytest.raises(host.module("hallo3.errors").InputError) as caught:
        memory.device_memory(config.HALLO3, weights)
    assert told in str(caught.value)
