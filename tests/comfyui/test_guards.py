"""What other nodes do to a MODEL or its conditioning: followed where it can be, refused where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages, difference


def test_another_clones_model_sampling_does_not_leak(stages: Stages) -> None:
    """The schedule is that of the MODEL that is sampled, whatever clone was sampled before it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    given = stages.given(segment=0, steps=4)
    before = stages.run("Hallo3Sampler", **given)[0]["samples"]
    other = ModelSamplingDiscrete().patch(stages.model, "v_prediction", False)[0]
    stages.ksampled("euler", "simple", model=other)
    assert difference(stages.run("Hallo3Sampler", **given)[0]["samples"], before) == 0
    with pytest.raises(
        stages.host.module("hallo3.errors").InputError, match="does not fit this model's noise"
    ):
        stages.run("Hallo3OriginalSchedule", model=other, steps=50)


def test_the_originals_sampler_refuses_other_predictions(stages: Stages) -> None:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    other = ModelSamplingSD3().patch(stages.model, 3.0)[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=4)[0]
    with pytest.raises(
        stages.host.module("hallo3.errors").InputError, match="does not fit this model's sampling"
    ):
        stages.run("Hallo3Sampler", **stages.given(model=other, segment=0, sigmas=sigmas))


def test_nan_never_becomes_a_video(stages: Stages) -> None:
    text = torch.full((1, 16, 32), float("nan"))
    with pytest.raises(stages.host.module("hallo3.errors").InputError, match="values that are not numbers"):
        stages.run("Hallo3Extrapolate", **stages.given(positive=[[text, {}]], steps=1))


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
    heard = {name: bool(entries[0]["hallo3_segment"].windows.any()) for name, entries in conds.items()}
    assert heard == {"positive": True, "empty_negative_prompt": False, "negative": False}


def test_text_of_another_length_is_cut_or_refused_when_it_is_sampled(stages: Stages) -> None:
    """Also when another node changed it after Segment Conditioning."""
    import nodes

    positive, negative, latent = stages.conditioning()

    def run(tokens: int) -> Tensor:
        changed = [[torch.zeros(1, tokens, 32), positive[0][1]]]
        made = nodes.common_ksampler(stages.model, 0, 1, 3.5, "euler", "simple", changed, negative, latent)
        return made[0]["samples"]

    assert difference(run(32), run(16)) == 0
    with pytest.raises(stages.host.module("hallo3.errors").InputError, match="at least 16 tokens"):
        run(15)


@pytest.mark.parametrize("nothing", [None, "", {}, 0])
def test_constants_in_sockets_are_refused(stages: Stages, nothing: Any) -> None:
    """ComfyUI passes them on from an API prompt."""
    refused = stages.host.module("hallo3.errors").InputError
    whole, one = stages.given(), stages.given(segment=0)
    conditions = {name: one[name] for name in one if name not in ("steps", "guidance_scale")}
    nodes = {"Hallo3Extrapolate": whole, "Hallo3Sampler": one, "Hallo3SegmentConditioning": conditions}
    for node, given in nodes.items():
        for name in ("identity", "speech", "model", "vae"):
            with pytest.raises(refused):
                stages.run(node, **{**given, name: nothing})
    if nothing is not None:
        for name in ("positive", "sampler", "sigmas", "guider"):
            with pytest.raises(refused):
                stages.run("Hallo3Extrapolate", **{**whole, name: nothing})
        with pytest.raises(refused, match="no face analyzer"):
            stages.run(
                "Hallo3IdentityReference",
                portrait=stages.portrait, vae=stages.vae, reference_network=stages.reference,
                face_analyzer=nothing,
            )  # fmt: skip
    with pytest.raises(refused):
        stages.run("Hallo3VAEDecode", samples=nothing, vae=stages.vae)
    with pytest.raises(refused):
        stages.run(
            "Hallo3IdentityReference",
            portrait=stages.portrait, vae=stages.vae, reference_network=nothing,
        )  # fmt: skip


def test_latents_that_are_no_segment_are_refused(stages: Stages) -> None:
    latent = stages.run("Hallo3Sampler", **stages.given(segment=0, steps=1))[0]
    refused = stages.host.module("hallo3.errors").InputError

    def decoded(**changes: Any) -> Any:
        return stages.run("Hallo3VAEDecode", samples={**latent, **changes}, vae=stages.vae)

    with pytest.raises(refused, match="cut or joined"):
        decoded(samples=torch.cat((latent["samples"],) * 2, dim=2))
    with pytest.raises(refused, match="not numbers"):
        decoded(samples=latent["samples"] * float("nan"))
    with pytest.raises(refused, match="not this VAE's"):
        decoded(samples=latent["samples"][:, :8])
    with pytest.raises(refused, match="not one segment's"):
        decoded(samples=latent["samples"].repeat(2, 1, 1, 1, 1))


def test_a_video_that_cannot_be_held_is_refused_before_it_is_sampled(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "get_total_memory", lambda _: 1e6)
    with pytest.raises(stages.host.module("hallo3.errors").InputError, match="does not fit into memory"):
        stages.run("Hallo3Extrapolate", **stages.given())
