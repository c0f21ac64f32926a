"""Hallo3 Guider: strengths of text and voice in ComfyUI, and as the package gives them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hallo3
from comfyui.host import Host
from comfyui.stages import SEED, STEPS, Stages, difference, run_extra
from hallo3.built_in import FOLDER
from hallo3.loading import load_models
from hallo3.quantization import PRECISIONS

PROMPT = "a person in blue light"


def make_guider(stages: Stages, positive: Any, guidance_scale: float = 0.0, **given: Any) -> Any:
    widgets = {"text_strength": "", "voice_strength": ""} | given
    inputs = {"model": stages.model, "guidance_scale": guidance_scale, "positive": positive} | widgets
    return stages.run("Hallo3Guider", **inputs)[0]


def test_node_and_package_give_the_same_frames(stages: Stages, recording: Any) -> None:
    """A curve over the steps and one over the video, two segments of the speech."""
    models = load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])
    given: dict[str, Any] = {"text_strength": "0%:1, 100%:3.5", "voice_strength": "0:1, 1:1, 1:2"}
    settings = hallo3.settings_for(models.config.defaults, seed=SEED, steps=STEPS, **given)
    settings = replace(settings, sampler="dpmpp_2m_sde")
    short = hallo3.Recording(recording.waveform[:, : 16000 * 5 // 2], recording.sample_rate)
    rendered = hallo3.animate(stages.picture, short, PROMPT, models, settings)
    wanted = torch.cat([frames.pixels for frames in rendered]).permute(0, 2, 3, 1)
    speech = stages.encode_speech(short.waveform[None])[0]
    text, sampler = stages.encode_text(PROMPT), stages.original_sampler("dpmpp_2m_sde")
    inputs = {"speech": speech, "sampler": sampler}
    images = stages.extrapolate(**inputs, guider=make_guider(stages, text, **given))
    assert difference(images, wanted) <= 1e-4
    plain = stages.extrapolate(**inputs, positive=text)
    assert difference(images, plain) > 1e-3


def test_it_guides_comfyuis_own_sampler(stages: Stages) -> None:
    """With the conditioning of a segment, as with a text in Hallo3's sampler."""
    given: dict[str, Any] = {"text_strength": "3", "voice_strength": "0%:1, 100%:2"}
    text = stages.encode_text(PROMPT)
    wanted = stages.sample(guider=make_guider(stages, text, **given))
    positive, _, latent = stages.conditioning(positive=text)
    native = make_guider(stages, positive, **given)
    noise = stages.module("hallo3.noise")
    start = noise.make_noise(SEED)(noise.Purpose.START, 0, 0, tuple(latent["samples"].shape))
    source = SimpleNamespace(seed=SEED, generate_noise=lambda _: start)
    sampler, sigmas = stages.original_sampler("ddim"), stages.original_schedule()
    found = run_extra("custom_sampler.SamplerCustomAdvanced", source, native, sampler, sigmas, latent)
    assert difference(found["samples"], wanted) <= 1e-5


def test_equal_strengths_are_the_guidance_scale(stages: Stages) -> None:
    text = stages.encode_text(PROMPT)
    plain = stages.sample(positive=text, guidance_scale=2.0)
    choices: list[dict[str, Any]] = [{}, {"voice_strength": "2"}, {"text_strength": "2.000000001"}]
    for given in choices:
        found = stages.sample(guider=make_guider(stages, text, guidance_scale=2.0, **given))
        assert difference(found, plain) <= 1e-4
    plain = stages.sample(guidance_scale=2.0)
    alone = make_guider(stages, None, text_strength="9", voice_strength="2")
    assert difference(stages.sample(guider=alone), plain) <= 1e-6, "without a prompt"


def test_samplers_of_comfyui_and_the_step_cache_work(stages: Stages) -> None:
    """Samplers that evaluate between steps; steps at which guidance changes are computed."""
    guider = make_guider(stages, None, guidance_scale=2.0, voice_strength="0%:1, 50%:1, 50%:2")
    heun = run_extra("custom_sampler.KSamplerSelect", "heun")
    cached = stages.original_sampler("ddim", step_cache=1.0, step_cache_bound=1.0)
    for sampler in (heun, cached):
        assert bool(stages.sample(guider=guider, sampler=sampler, steps=9).isfinite().all())
    assert guider.changes(9) == [4, 4]


def test_what_cannot_be_read_is_a_sentence(stages: Stages) -> None:
    for name in ("text_strength", "voice_strength"):
        what = name.replace("_", " ")
        with pytest.raises(stages.errors.InputError, match=f"The {what} cannot be read"):
            make_guider(stages, None, **dict[str, Any]({name: "1:30:2"}))


def test_plan_reads_the_connected_guider(host: Host) -> None:
    """And says what three branches cost."""
    plan = host.module("nodes.plan")
    widgets = {"guidance_scale": 0.0, "text_strength": "2", "voice_strength": "0:3, 30:1"}
    nodes = {
        "1": {"class_type": "Hallo3Guider", "inputs": widgets},
        "2": {"class_type": "Hallo3Extrapolate", "inputs": {"guider": ["1", 0], "steps": 4}},
    }
    prompt = SimpleNamespace(get_node=nodes.__getitem__, all_node_ids=lambda: {*nodes})
    graph = host.module("nodes.comfy.workflow").Graph(prompt)
    typed = plan.Settings.typed(
        "Hallo3", steps=0, guidance_scale=0.0, codec="h264", paste_back=False, images=False
    )
    sampled = typed.connected(graph, "2").sampled
    assert (sampled.steps, sampled.branches) == (4, 3)
    segments = host.module("hallo3.segments").plan_segments(16000 * 8, typed.config.segment)
    said = plan._describe_guidance(sampled, segments)
    assert said == "text strength 2; voice strength 0:3, 30:1: 1.5 times the work of one guidance scale"
