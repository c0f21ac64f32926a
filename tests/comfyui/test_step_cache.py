"""The step cache of Hallo3 Original Sampler, and ComfyUI's own way to guide in the middle only."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from comfyui.stages import Stages, difference

STEPS = 20


@contextmanager
def counting(stages: Stages) -> Iterator[list[int]]:
    found: list[int] = []
    network = stages.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0])))
    try:
        yield found
    finally:
        hook.remove()


def sampled(stages: Stages, model: Any = None, **widgets: Any) -> torch.Tensor:
    sampler = stages.run("Hallo3OriginalSampler", **{"sampler_name": "dpmpp_2m"} | widgets)[0]
    inputs = stages.inputs(segment=0, steps=STEPS, guidance_scale=3.5, sampler=sampler)
    return stages.run("Hallo3Sampler", **inputs | ({"model": model} if model else {}))[0]["samples"]


def test_off_is_the_sampler_as_it_was(stages: Stages) -> None:
    plain = sampled(stages)
    assert torch.equal(plain, sampled(stages, step_cache=0.0, step_cache_bound=0.9))


def test_on_it_computes_what_the_log_says(stages: Stages, caplog: pytest.LogCaptureFixture) -> None:
    with counting(stages) as whole:
        plain = sampled(stages)
    assert sum(whole) == 2 * STEPS
    with caplog.at_level(logging.INFO), counting(stages) as passes:
        cached = sampled(stages, step_cache=0.1)
    said = re.search(r"step cache: (\d+) of 20 steps were not computed", caplog.text)
    assert said is not None
    assert int(said[1]) > 3
    assert sum(passes) == 2 * (STEPS - int(said[1]))
    assert 0 < difference(cached, plain) < 0.2


def test_every_step_is_seen_though_it_is_not_computed(stages: Stages) -> None:
    """Progress bars and previews count steps, not passes."""
    from comfy_extras.nodes_custom_sampler import CFGGuider

    positive, negative, latent = stages.conditioning()
    guider = CFGGuider.execute(stages.model, positive, negative, 1.0).result[0]
    sampler = stages.run("Hallo3OriginalSampler", sampler_name="ddim", step_cache=0.2)[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=STEPS)[0]
    start, seen = torch.randn(latent["samples"].shape), list[int]()
    guider.sample(
        start,
        torch.zeros_like(start),
        sampler,
        sigmas,
        callback=lambda step, *_: seen.append(step),
        disable_pbar=True,
        seed=1,
    )
    assert seen == list(range(STEPS))


def test_cfg_override_guides_in_the_middle_only(stages: Stages) -> None:
    from comfy_extras.nodes_custom_sampler import CFGOverride

    first = CFGOverride.execute(stages.model, 1.0, 0.0, 0.3).result[0]
    both = CFGOverride.execute(first, 1.0, 0.9, 1.0).result[0]
    with counting(stages) as passes:
        sampled(stages, both)
    assert len(passes) == STEPS
    assert STEPS + 10 <= sum(passes) <= STEPS + 13
