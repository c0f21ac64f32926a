"""The attention that ComfyUI has selected, or that a node has set, is reported."""

from __future__ import annotations

from typing import Any

import pytest

from comfyui.stages import Stages, difference


@pytest.fixture
def selected(stages: Stages) -> str:
    """The name of ComfyUI's own choice; ``stages`` has made ComfyUI importable."""
    from comfy.ldm.modules.attention import optimized_attention

    del stages
    return optimized_attention.__name__


def patched(model: Any, attention: Any) -> Any:
    """A MODEL with another attention, as nodes that patch it make it."""
    mine = model.clone()
    mine.model_options["transformer_options"]["optimized_attention_override"] = attention
    return mine


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("Hallo3: attention")]


def test_a_run_says_which_attention_computes_it(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[str] = []

    def attention_of_a_node(function: Any, *inputs: Any, **rest: Any) -> Any:
        used.append(function.__name__)
        return function(*inputs, **rest)

    with caplog.at_level("INFO"):
        plain = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2))[0]["samples"]
        model = patched(stages.model, attention_of_a_node)
        found = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2, model=model))[0]["samples"]
    assert difference(found, plain) == 0
    assert set(used) == {selected}
    other = f"attention_of_a_node, with which a node replaces {selected}"
    assert told(caplog) == [f"Hallo3: attention by {selected}", f"Hallo3: attention by {other}"]


def test_a_guider_brings_the_attention_of_its_model(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy_extras.nodes_custom_sampler import BasicGuider

    class Attention:
        def __call__(self, function: Any, *inputs: Any, **rest: Any) -> Any:
            return function(*inputs, **rest)

    positive, _, _ = stages.conditioning()
    guider = BasicGuider.execute(patched(stages.model, Attention()), positive).result[0]
    with caplog.at_level("INFO"):
        stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=1, guider=guider))
    other = f"Attention, with which a node replaces {selected}"
    assert told(caplog) == [f"Hallo3: attention by {other}"]


def test_extrapolate_says_it_once_for_all_its_segments(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(stages.speech.speech.plan) > 1
    with caplog.at_level("INFO"):
        stages.run("Hallo3Extrapolate", **stages.inputs(steps=1, seed=77))
    assert told(caplog) == [f"Hallo3: attention by {selected}"]


def test_the_doctor_says_it_too(stages: Stages, selected: str) -> None:
    assert f"\n  attention: {selected}\n" in stages.run("Hallo3Doctor")[0]
