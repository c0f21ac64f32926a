"""Changes of other nodes to a MODEL, its conditioning or latents: supported, or refused with advice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages, difference


def input_error(stages: Stages) -> Any:
    return stages.host.module("hallo3.errors").InputError


def run_ksampler(stages: Stages, samples: Tensor, **conditioning: Any) -> Tensor:
    """Two steps of ComfyUI's KSampler on latents, with a segment's conditioning unless it is replaced."""
    import nodes

    positive, negative, latent = stages.conditioning()
    branches = conditioning.get("positive", positive), conditioning.get("negative", negative)
    latent = {**latent, "samples": samples}
    return nodes.common_ksampler(stages.model, 0, 2, 3.5, "euler", "simple", *branches, latent)[0]["samples"]


def test_another_clones_model_sampling_does_not_leak(stages: Stages) -> None:
    """The schedule is that of the MODEL that is sampled, whatever clone was sampled before it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    inputs = stages.inputs(segment=0, steps=4)
    before = stages.run("Hallo3Sampler", **inputs)[0]["samples"]
    other = ModelSamplingDiscrete().patch(stages.model, "v_prediction", False)[0]
    stages.run_ksampler("euler", "simple", model=other)
    assert difference(stages.run("Hallo3Sampler", **inputs)[0]["samples"], before) == 0
    with pytest.raises(input_error(stages), match="does not fit this model's noise"):
        stages.run("Hallo3OriginalSchedule", model=other, steps=50)


def test_the_originals_sampler_refuses_other_predictions(stages: Stages) -> None:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    other = ModelSamplingSD3().patch(stages.model, 3.0)[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=4)[0]
    with pytest.raises(input_error(stages), match="does not fit this model's sampling"):
        stages.run("Hallo3Sampler", **stages.inputs(model=other, segment=0, sigmas=sigmas))


def test_nan_never_becomes_a_video(stages: Stages) -> None:
    text = torch.full((1, 16, 32), float("nan"))
    with pytest.raises(input_error(stages), match="produced NaN"):
        stages.run("Hallo3Extrapolate", **stages.inputs(positive=[[text, {}]], steps=1))


def test_perpendicular_guidance_hears_the_speech(stages: Stages) -> None:
    """Its unconditional branch has another name."""
    from comfy_extras.nodes_perpneg import PerpNegGuider

    zero = [[torch.zeros(1, 16, 32), {}]]
    guider = PerpNegGuider.execute(stages.model, zero, zero, zero, 3.5, 1.0).result[0]
    sampling = stages.host.module("nodes.comfy.sampling").Sampling(stages.model, 2, 3.5, guider=guider)
    segment = stages.host.module("nodes.comfy.model").SegmentInput(
        identity=stages.identity, windows=torch.ones(1, 2), image_latents=torch.zeros(1)
    )
    conds = sampling._guider(segment).original_conds
    has_speech = {name: bool(entries[0]["hallo3_segment"].windows.any()) for name, entries in conds.items()}
    assert has_speech == {"positive": True, "empty_negative_prompt": False, "negative": False}


def test_text_of_another_length_is_cut_or_refused_when_it_is_sampled(stages: Stages) -> None:
    """Also when another node changed it after Segment Conditioning."""
    [[_, extras]] = stages.conditioning()[0]

    def run(tokens: int) -> Tensor:
        text = [[torch.zeros(1, tokens, 32), extras]]
        return run_ksampler(stages, torch.zeros(1, 16, 9, 8, 8), positive=text)

    assert difference(run(32), run(16)) == 0
    with pytest.raises(input_error(stages), match="at least 16 tokens"):
        run(15)


def test_latents_that_are_no_segment_are_refused(stages: Stages) -> None:
    latent = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=1))[0]
    samples, refused = latent["samples"], input_error(stages)
    for changed, message in (
        (torch.cat((samples, samples), dim=2), "cut or joined"),
        (samples * float("nan"), "NaN"),
        (samples[:, :8], "do not match the VAE"),
        (samples.repeat(2, 1, 1, 1, 1), "not a single segment"),
    ):
        with pytest.raises(refused, match=message):
            stages.run("Hallo3VAEDecode", samples={**latent, "samples": changed}, vae=stages.vae)


def test_a_video_that_cannot_be_held_is_refused_before_it_is_sampled(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "get_total_memory", lambda _: 1e6)
    with pytest.raises(input_error(stages), match="does not fit in memory"):
        stages.run("Hallo3Extrapolate", **stages.inputs())


def test_ksampler_refuses_plain_conditioning_and_another_length(stages: Stages) -> None:
    plain = [[torch.zeros(1, 16, 32), {}]]
    with pytest.raises(input_error(stages), match="not made for Hallo3"):
        run_ksampler(stages, torch.zeros(1, 16, 9, 8, 8), positive=plain, negative=plain)
    for frames in (8, 10, 17):
        with pytest.raises(Exception, match="does not have a segment's length"):
            run_ksampler(stages, torch.zeros(1, 16, frames, 8, 8))


def test_a_batch_of_latents_is_sampled(stages: Stages) -> None:
    samples = run_ksampler(stages, torch.zeros(2, 16, 9, 8, 8))
    assert samples.shape == (2, 16, 9, 8, 8)
    assert difference(samples[:1], samples[1:]) > 0.1
