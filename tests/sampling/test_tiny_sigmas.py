"""Sigmas so small that their signal's share is 1, or one another's: as hosts give them, before 0 or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hallo3.sampling.samplers import SAMPLERS, ode_coefficients
from hallo3.sampling.schedule import Step, sigmas_to_schedule

SHAPE = (1, 2, 3, 2, 2)
TARGET = torch.linspace(-1, 1, 24).reshape(SHAPE)
MEAN, STD = 0.3, 0.7
TINY = {
    "none in double precision": [1.0, 1e-8, 0.0],
    "several": [1.0, 1e-8, 1e-9, 1e-12, 0.0],
    "none in single precision": [1.0, 0.5, 1e-4, 0.0],
    "at the end": [3.0, 1.0, 1e-8],
    "from there on": [1e-8, 1e-9, 0.0],
    "no way between two": [1.0, 1.0000002e-6, 1e-6, 5e-7, 0.0],
    "no way between two in single precision": [1.0, 1.00001e-3, 1e-3, 5e-4, 0.0],
}


def run(name: str, sigmas: list[float], denoise) -> Tensor:
    def noise(step: int) -> Tensor:
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))

    steps = sigmas_to_schedule(torch.tensor(sigmas), 4518.0, lambda _: 0.0)
    return SAMPLERS[name](denoise, noise(99), steps, noise, lambda _: None)


def ideal(x: Tensor, step: Step) -> Tensor:
    """The ideal denoiser of normal data with that mean and deviation."""
    a = step.alpha
    return MEAN + a * STD**2 / (a**2 * STD**2 + (1 - a) * (1 + a)) * (x - a * MEAN)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", TINY)
def test_a_perfect_denoiser_is_followed_home(name: str, case: str) -> None:
    found = run(name, TINY[case], lambda _x, _step: TARGET)
    assert torch.allclose(found, TARGET, atol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", TINY)
def test_every_number_is_one(name: str, case: str) -> None:
    assert bool(run(name, TINY[case], ideal).isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("tiny", [1e-8, 1e-12])
def test_a_step_through_no_noise_changes_nothing(name: str, tiny: float) -> None:
    """The ideal denoiser gives clean data back as they are."""
    found, wanted = run(name, [1.0, 0.5, tiny, 0.0], ideal), run(name, [1.0, 0.5, 0.0], ideal)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_coefficients_of_no_noise_give_the_estimate() -> None:
    steps = sigmas_to_schedule(torch.tensor([1.0, 1e-8, 1e-9, 0.0]), 4518.0, lambda _: 0.0)
    assert [tuple(step) for step in ode_coefficients(steps)] == [(0.0, 1.0, 0.0)] * 3
