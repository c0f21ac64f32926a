"""Laws of the schedule and the samplers; the goldens pin the numbers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.counts import MetaStep
from hallo3.config import TINY
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.sampling.samplers import SAMPLERS, guided_denoiser, ode_coefficients, sample_ddim, sample_dpmpp_2m
from hallo3.sampling.schedule import Schedule, Step, make_schedule, sigmas_to_schedule

TARGET = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 2, 2)


def noise(step: int) -> Tensor:
    drawn = np.random.default_rng(step + 1).standard_normal(TARGET.shape)
    return torch.from_numpy(drawn.astype("float32"))


def test_other_step_counts_are_refused() -> None:
    for steps in (0, -1, 1001, 10**6):
        with pytest.raises(ValueError, match=str(steps)):
            make_schedule(steps)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_perfect_denoiser_ends_at_its_target(name: str, steps: int) -> None:
    reports: list[int] = []
    latents = SAMPLERS[name](lambda _x, _step: TARGET, noise(-1), make_schedule(steps), noise, reports.append)
    assert torch.allclose(latents, TARGET, atol=1e-5)
    assert reports == list(range(1, steps + 1))


MEAN, STD = 0.3, 0.7


def denoise_normal(x: Tensor, step: Step) -> Tensor:
    """The ideal denoiser of normal data with this mean and deviation."""
    a = step.alpha
    return MEAN + a * STD**2 / spread(a) ** 2 * (x - a * MEAN)


def spread(alpha: float) -> float:
    return math.sqrt(alpha**2 * STD**2 + (1 - alpha) * (1 + alpha))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
@torch.inference_mode()
def test_no_step_waits_for_the_device(passes: str, sampler: str) -> None:
    """A meta tensor has no values: code that reads one raises."""
    meta = MetaStep(TINY, steps=4)
    noise, denoise = torch.empty_like(meta.latents), guided_denoiser(meta.predict(passes), 3.5)
    latents = SAMPLERS[sampler](denoise, meta.latents, make_schedule(4), lambda _: noise, lambda _: None)
    assert latents.shape == meta.latents.shape
    with pytest.raises(RuntimeError):
        bool(latents.sum() > 0)


START = torch.linspace(-3, 3, 101, dtype=torch.float64).reshape(1, 1, 1, 1, -1)


def exact(alpha: float) -> Tensor:
    """Where the probability-flow ODE takes the start: normal data only shift and shrink."""
    return alpha * MEAN + spread(alpha) * START


def unused(step: int) -> Tensor:
    raise AssertionError(step)


def run_2m(sample, steps: Schedule, start: Tensor = START) -> Tensor:
    return sample(denoise_normal, start, steps, unused, lambda _: None)


def errors(sample, share: float, counts: tuple[int, ...]) -> list[float]:
    """Largest distance from the exact solution after that share of the schedule."""
    parts = [Schedule(make_schedule(count).steps[: round(count * share)]) for count in counts]
    return [float((run_2m(sample, part) - exact(part.steps[-1].next_alpha)).abs().max()) for part in parts]


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_error_falls_with_the_square_of_the_step(share: float) -> None:
    """DDIM is of first order. The steps of the last quarter do not shrink when there are more of them."""
    second, first = (errors(sample, share, (20, 40, 80, 160)) for sample in (sample_dpmpp_2m, sample_ddim))
    assert all(3.5 < a / b < 4.5 for a, b in pairwise(second))
    assert all(1.6 < a / b < 2.2 for a, b in pairwise(first))
    assert second[0] < first[0] / 4


@pytest.mark.parametrize("steps", [2, 3, 8, 20, 50, 1000])
def test_single_precision_follows_double(steps: int) -> None:
    plan = make_schedule(steps)
    single, double = run_2m(sample_dpmpp_2m, plan, START.float()), run_2m(sample_dpmpp_2m, plan)
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 2e-5


@pytest.mark.parametrize("steps", [1, 2, 50, 999, 1000])
def test_no_coefficient_is_infinite(steps: int) -> None:
    coefficients = ode_coefficients(make_schedule(steps))
    assert all(math.isfinite(value) for step in coefficients for value in step)
    assert coefficients[0].ahead == 0
    assert coefficients[-1][:2] == (0, 1)
    if steps > 2:
        assert coefficients[1].ahead == 0, "the step before the second is infinite"
        assert coefficients[2].ahead > 0
    without_noise = sigmas_to_schedule(torch.tensor([1.0, 1e-8, 1e-9, 0.0]), 4518.0, lambda _: 0.0)
    assert [tuple(step) for step in ode_coefficients(without_noise)] == [(0.0, 1.0, 0.0)] * 3


def test_a_part_that_starts_and_ends_in_noise_follows_the_exact_solution() -> None:
    part = sigmas_to_schedule(torch.logspace(1, -1, 41, dtype=torch.float64), 4518.0, lambda _: 0.0)
    first, last = part.steps[0].alpha, part.steps[-1].next_alpha
    latents = run_2m(sample_dpmpp_2m, part, exact(first))
    assert float((latents - exact(last)).abs().max()) < 2e-3


TINY_SIGMAS = {
    "none in double precision": [1.0, 1e-8, 0.0],
    "several": [1.0, 1e-8, 1e-9, 1e-12, 0.0],
    "none in single precision": [1.0, 0.5, 1e-4, 0.0],
    "at the end": [3.0, 1.0, 1e-8],
    "from there on": [1e-8, 1e-9, 0.0],
    "no way between two": [1.0, 1.0000002e-6, 1e-6, 5e-7, 0.0],
    "no way between two in single precision": [1.0, 1.00001e-3, 1e-3, 5e-4, 0.0],
}


def run_sigmas(name: str, sigmas: list[float], denoise) -> Tensor:
    steps = sigmas_to_schedule(torch.tensor(sigmas), 4518.0, lambda _: 0.0)
    return SAMPLERS[name](denoise, noise(99), steps, noise, lambda _: None)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", TINY_SIGMAS)
def test_tiny_sigmas_give_finite_latents(name: str, case: str) -> None:
    perfect = run_sigmas(name, TINY_SIGMAS[case], lambda _x, _step: TARGET)
    assert torch.allclose(perfect, TARGET, atol=2e-5)
    assert bool(run_sigmas(name, TINY_SIGMAS[case], denoise_normal).isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("tiny", [1e-8, 1e-12])
def test_a_step_through_no_noise_changes_nothing(name: str, tiny: float) -> None:
    """The denoiser of normal data returns clean data as they are."""
    expected = run_sigmas(name, [1.0, 0.5, 0.0], denoise_normal)
    assert torch.allclose(run_sigmas(name, [1.0, 0.5, tiny, 0.0], denoise_normal), expected, atol=1e-6)
