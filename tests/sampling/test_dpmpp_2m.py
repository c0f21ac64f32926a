"""DPM-Solver++(2M): against the formula in double precision and against the exact way of normal data."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.sampling.samplers import ode_coefficients, sample_ddim, sample_dpmpp_2m
from hallo3.sampling.schedule import Schedule, Step, make_schedule, sigmas_to_schedule

MEAN, STD = 0.3, 0.7
START = torch.linspace(-3, 3, 101, dtype=torch.float64).reshape(1, 1, 1, 1, -1)


def denoise(x: Tensor, step: Step) -> Tensor:
    """The ideal denoiser of normal data with that mean and deviation."""
    a = step.alpha
    return MEAN + a * STD**2 / spread(a) ** 2 * (x - a * MEAN)


def spread(alpha: float) -> float:
    return math.sqrt(alpha**2 * STD**2 + 1 - alpha**2)


def exact(alpha: float) -> Tensor:
    """Where the probability-flow ODE takes the start: normal data only shift and shrink."""
    return alpha * MEAN + spread(alpha) * START


def unused(step: int) -> Tensor:
    raise AssertionError(step)


def run(sample, steps: Schedule, start: Tensor = START) -> Tensor:
    return sample(denoise, start, steps, unused, lambda _: None)


def errors(sample, share: float, counts: tuple[int, ...]) -> list[float]:
    """Largest distance from the exact way after that share of the schedule."""
    found: list[float] = []
    for count in counts:
        part = Schedule(make_schedule(count).steps[: round(count * share)])
        found.append(float((run(sample, part) - exact(part.steps[-1].next_alpha)).abs().max()))
    return found


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_error_falls_with_the_square_of_the_step(share: float) -> None:
    """Second order, out of pure noise too; DDIM is of first order. Up to the last quarter of the schedule,
    whose steps in log-SNR do not shrink when there are more of them."""
    second = errors(sample_dpmpp_2m, share, (20, 40, 80, 160))
    first = errors(sample_ddim, share, (20, 40, 80, 160))
    assert all(3.5 < a / b < 4.5 for a, b in pairwise(second))
    assert all(1.6 < a / b < 2.2 for a, b in pairwise(first))
    assert second[0] < first[0] / 4


def reference(steps: Schedule, start: np.ndarray) -> np.ndarray:
    """Algorithm 2 of the paper in double precision, as it is printed there; the limits are written out."""
    x, before, way_before = start.astype(np.float64), None, math.inf
    for step in steps.steps:
        a, b = step.alpha, step.next_alpha
        d = denoise(torch.from_numpy(x), step).numpy()
        if b == 1:
            return d
        sigma_a, sigma_b = math.sqrt(1 - a * a), math.sqrt(1 - b * b)
        way = math.inf if a == 0 else math.log(b / sigma_b) - math.log(a / sigma_a)
        ratio = way_before / way if before is not None else math.inf
        best = d if math.isinf(ratio) else (1 + 1 / (2 * ratio)) * d - 1 / (2 * ratio) * before
        x = sigma_b / sigma_a * x - b * math.expm1(-way) * best
        before, way_before = d, way
    return x


@pytest.mark.parametrize("steps", [2, 3, 8, 20, 50, 1000])
def test_single_precision_follows_the_formula_in_double(steps: int) -> None:
    found = run(sample_dpmpp_2m, make_schedule(steps), START.float())
    wanted = reference(make_schedule(steps), START.numpy())
    assert found.dtype == torch.float32
    assert float((found - torch.from_numpy(wanted)).abs().max()) < 2e-5


@pytest.mark.parametrize("steps", [1, 2, 50, 999, 1000])
def test_no_coefficient_is_infinite(steps: int) -> None:
    found = ode_coefficients(make_schedule(steps))
    assert all(math.isfinite(value) for step in found for value in step)
    assert found[0].ahead == 0
    assert found[-1].keep == 0
    assert found[-1].move == 1
    if steps > 2:
        assert found[1].ahead == 0, "an infinite way lies behind the second step"
        assert found[2].ahead > 0


def test_a_part_that_starts_and_ends_in_noise_keeps_to_the_exact_way() -> None:
    part = sigmas_to_schedule(torch.logspace(1, -1, 41, dtype=torch.float64), 4518.0, lambda _: 0.0)
    first, last = part.steps[0].alpha, part.steps[-1].next_alpha
    found = run(sample_dpmpp_2m, part, exact(first))
    assert float((found - exact(last)).abs().max()) < 2e-3
