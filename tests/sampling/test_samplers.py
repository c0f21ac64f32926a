"""Laws of the schedule and the samplers; the goldens pin the numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.counts import MetaStep
from hallo3.config import TINY
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.sampling.samplers import (
    SAMPLERS,
    guided_denoiser,
    sample_ddim,
    sample_dpmpp_2m_sde,
)
from hallo3.sampling.schedule import Step, make_schedule

TARGET = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 2, 2)


def noise(step: int) -> Tensor:
    drawn = np.random.default_rng(step + 1).standard_normal(TARGET.shape)
    return torch.from_numpy(drawn.astype("float32"))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 333, 999, 1000])
def test_a_schedule_runs_from_pure_noise_to_none(steps: int) -> None:
    plan = make_schedule(steps).steps
    alphas = [step.alpha for step in plan] + [plan[-1].next_alpha]
    assert len(plan) == steps
    assert alphas[0] == 0.0
    assert alphas[-1] == 1.0
    assert all(a < b for a, b in pairwise(alphas))
    assert [step.timestep for step in plan] == np.linspace(999, 0, steps, endpoint=False).astype(int).tolist()


@pytest.mark.parametrize("steps", [0, -1, 1001, 10**6])
def test_other_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=str(steps)):
        make_schedule(steps)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_perfect_denoiser_is_followed_home(name: str, steps: int) -> None:
    reports: list[int] = []
    found = SAMPLERS[name](lambda _x, _step: TARGET, noise(-1), make_schedule(steps), noise, reports.append)
    assert torch.allclose(found, TARGET, atol=1e-5)
    assert reports == list(range(1, steps + 1))


def gaussian_denoiser(mean: float, std: float):
    """The exact denoiser of normally distributed data, at the sampler's own alpha."""

    def denoise(x: Tensor, step: Step) -> Tensor:
        a, variance = step.alpha, step.alpha**2 * std**2 + 1 - step.alpha**2
        return mean + a * std**2 / variance * (x - a * mean)

    return denoise


@pytest.mark.parametrize("sampler", [sample_dpmpp_2m_sde, sample_ddim])
def test_gaussian_data_comes_back_as_itself(sampler) -> None:
    draws = np.random.default_rng(5)

    def fresh(_step: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal((1, 1, 1, 100, 100)).astype("float32"))

    found = sampler(gaussian_denoiser(0.3, 0.7), fresh(0), make_schedule(50), fresh, lambda _: None)
    assert abs(float(found.mean()) - 0.3) < 0.03
    assert abs(float(found.std()) - 0.7) < 0.03


def test_the_deterministic_sampler_asks_for_no_noise() -> None:
    def refuse(step: int) -> Tensor:
        raise AssertionError(step)

    sample_ddim(lambda x, _: x * 0.5, TARGET, make_schedule(4), refuse, lambda _: None)


def test_guidance_extrapolates_from_the_unconditional_branch() -> None:
    step = make_schedule(4).steps[1]

    def predict(x: Tensor, index: int) -> Tensor:
        assert index == step.index
        return torch.cat((torch.zeros_like(x), torch.ones_like(x)))

    by_scale = {g: guided_denoiser(predict, g)(TARGET, step) for g in (0.0, 1.0, 3.5)}
    unconditional, conditional = by_scale[0.0], by_scale[1.0]
    assert torch.allclose(by_scale[3.5], unconditional + 3.5 * (conditional - unconditional), atol=1e-5)
    assert torch.allclose(unconditional, step.table_alpha * TARGET)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
@torch.inference_mode()
def test_no_step_waits_for_the_device(passes: str, sampler: str) -> None:
    """A meta tensor has no values: code that reads one raises."""
    meta = MetaStep(TINY, steps=4)
    predict = meta.predict(passes)
    noise = torch.empty_like(meta.latents)
    denoise = guided_denoiser(predict, 3.5)
    latents = SAMPLERS[sampler](denoise, meta.latents, make_schedule(4), lambda _: noise, lambda _: None)
    assert latents.shape == meta.latents.shape
    with pytest.raises(RuntimeError):
        bool(latents.sum() > 0)
