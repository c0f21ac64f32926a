"""Laws of the schedule and the samplers; the goldens pin the numbers."""

from __future__ import annotations

import math
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
    ode_coefficients,
    sample_ddim,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
)
from hallo3.sampling.schedule import Schedule, Step, make_schedule, sigmas_to_schedule

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


MEAN, STD = 0.3, 0.7


def denoise_normal(x: Tensor, step: Step) -> Tensor:
    """The ideal denoiser of normal data with this mean and deviation."""
    a = step.alpha
    return MEAN + a * STD**2 / spread(a) ** 2 * (x - a * MEAN)


def spread(alpha: float) -> float:
    return math.sqrt(alpha**2 * STD**2 + (1 - alpha) * (1 + alpha))


@pytest.mark.parametrize("sampler", [sample_dpmpp_2m_sde, sample_ddim])
def test_gaussian_data_comes_back_as_itself(sampler) -> None:
    draws = np.random.default_rng(5)

    def fresh(_step: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal((1, 1, 1, 100, 100)).astype("float32"))

    found = sampler(denoise_normal, fresh(0), make_schedule(50), fresh, lambda _: None)
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


START = torch.linspace(-3, 3, 101, dtype=torch.float64).reshape(1, 1, 1, 1, -1)


def exact(alpha: float) -> Tensor:
    """Where the probability-flow ODE takes the start: normal data only shift and shrink."""
    return alpha * MEAN + spread(alpha) * START


def unused(step: int) -> Tensor:
    raise AssertionError(step)


def run_2m(sample, steps: Schedule, start: Tensor = START) -> Tensor:
    return sample(denoise_normal, start, steps, unused, lambda _: None)


def errors(sample, share: float, counts: tuple[int, ...]) -> list[float]:
    """Largest distance from the exact way after that share of the schedule."""
    found: list[float] = []
    for count in counts:
        part = Schedule(make_schedule(count).steps[: round(count * share)])
        found.append(float((run_2m(sample, part) - exact(part.steps[-1].next_alpha)).abs().max()))
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
        d = denoise_normal(torch.from_numpy(x), step).numpy()
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
    found = run_2m(sample_dpmpp_2m, make_schedule(steps), START.float())
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
    found = run_2m(sample_dpmpp_2m, part, exact(first))
    assert float((found - exact(last)).abs().max()) < 2e-3


SHAPE = (1, 2, 3, 2, 2)
SMALL_TARGET = torch.linspace(-1, 1, 24).reshape(SHAPE)
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
    def noise(step: int) -> Tensor:
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))

    steps = sigmas_to_schedule(torch.tensor(sigmas), 4518.0, lambda _: 0.0)
    return SAMPLERS[name](denoise, noise(99), steps, noise, lambda _: None)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", TINY_SIGMAS)
def test_tiny_sigmas_with_a_perfect_denoiser_end_at_the_target(name: str, case: str) -> None:
    found = run_sigmas(name, TINY_SIGMAS[case], lambda _x, _step: SMALL_TARGET)
    assert torch.allclose(found, SMALL_TARGET, atol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", TINY_SIGMAS)
def test_tiny_sigmas_give_finite_latents(name: str, case: str) -> None:
    assert bool(run_sigmas(name, TINY_SIGMAS[case], denoise_normal).isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("tiny", [1e-8, 1e-12])
def test_a_step_through_no_noise_changes_nothing(name: str, tiny: float) -> None:
    """The denoise_normal denoiser gives clean data back as they are."""
    found, wanted = (
        run_sigmas(name, [1.0, 0.5, tiny, 0.0], denoise_normal),
        run_sigmas(name, [1.0, 0.5, 0.0], denoise_normal),
    )
    assert torch.allclose(found, wanted, atol=1e-6)


def test_coefficients_of_no_noise_give_the_estimate() -> None:
    steps = sigmas_to_schedule(torch.tensor([1.0, 1e-8, 1e-9, 0.0]), 4518.0, lambda _: 0.0)
    assert [tuple(step) for step in ode_coefficients(steps)] == [(0.0, 1.0, 0.0)] * 3
