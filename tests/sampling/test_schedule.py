"""The schedule's own numbers, recorded: equal to the last bit on every processor (facts 17)."""

import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from hallo3.sampling.samplers import sample_ddim, sample_dpmpp_2m_sde, solver_coefficients
from hallo3.sampling.schedule import make_schedule, schedule_to_sigmas, sigma_to_alpha, sigmas_to_schedule

RECORDED = Path(__file__).resolve().parents[1] / "data" / "schedule.json"
STEPS = (1, 2, 3, 8, 20, 30, 50, 333, 1000)
SHOWN = 8
"""Step count whose numbers are recorded one by one; of the others, a hash."""


def numbers(steps: int) -> list[list[str]]:
    """A row per step, in hexadecimal; the last step has no multipliers."""
    plan = make_schedule(steps)
    used = [[float(value).hex() for value in row] for row in solver_coefficients(plan)[:-1]]
    rows = [[float(n).hex() for n in (s.timestep, s.alpha, s.next_alpha, s.table_alpha)] for s in plan.steps]
    return [row + multipliers for row, multipliers in zip(rows, [*used, []], strict=True)]


def test_every_number_is_the_recorded_one() -> None:
    hashes = {str(n): sha256(json.dumps(numbers(n)).encode()).hexdigest() for n in STEPS}
    assert {"hashes": hashes, f"{SHOWN} steps": numbers(SHOWN)} == json.loads(RECORDED.read_text())


PURE = 4518.0


@pytest.mark.parametrize("steps", [1, 2, 8, 20, 50, 999])
def test_the_originals_sigmas_are_recognised(steps: int) -> None:
    sigmas = schedule_to_sigmas(steps, PURE)
    assert sigmas_to_schedule(sigmas, PURE, lambda _: math.nan) == make_schedule(steps)


def test_sigmas_fall_from_pure_noise_to_nothing() -> None:
    sigmas = schedule_to_sigmas(50, PURE)
    assert sigmas[[0, -1]].tolist() == [PURE, 0]
    assert bool((sigmas.diff() < 0).all())
    alphas = torch.tensor([step.alpha for step in make_schedule(50).steps[1:]])
    inverse = torch.tensor([sigma_to_alpha(float(sigma)) for sigma in sigmas[1:-1]])
    assert float((inverse - alphas).abs().max()) < 1e-6


def test_other_sigmas_are_used_as_they_are() -> None:
    schedule = sigmas_to_schedule(torch.tensor([3.0, 1.0, 0.5]), PURE, lambda sigma: sigma * 100)
    assert [step.timestep for step in schedule.steps] == [300.0, 100.0]
    first, last = schedule.steps
    assert last.table_alpha == last.alpha == first.next_alpha == sigma_to_alpha(1.0)
    assert last.next_alpha == sigma_to_alpha(0.5)


@pytest.mark.parametrize("sample", [sample_ddim, sample_dpmpp_2m_sde])
def test_a_schedule_that_ends_in_noise_can_be_continued(sample) -> None:
    """With the true picture as denoiser, two halves end where the whole does: at the picture."""
    truth = torch.full((1, 1, 1, 4, 4), 0.7)
    sigmas = torch.tensor([PURE, 20.0, 5.0, 1.0, 0.3, 0.0])
    noise = torch.randn(5, *truth.shape, generator=torch.Generator().manual_seed(1))

    def run(part: torch.Tensor, start: torch.Tensor, shift: int) -> torch.Tensor:
        steps = sigmas_to_schedule(part, PURE, lambda _: 0.0)
        return sample(lambda *_: truth, start, steps, lambda i: noise[i + shift], lambda _: None)

    half = run(sigmas[:4], noise[4], 0)
    share = sigma_to_alpha(1.0)
    assert float((half - share * truth).std()) == pytest.approx((1 - share**2) ** 0.5, rel=0.5)
    torch.testing.assert_close(run(sigmas[3:], half, 3), truth)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 8), (2, 5)])
def test_a_part_of_the_originals_sigmas_keeps_its_steps(first: int, last: int) -> None:
    part = sigmas_to_schedule(schedule_to_sigmas(8, PURE)[first : last + 1], PURE, lambda _: math.nan)
    expected = make_schedule(8).steps[first:last]
    assert part.first == first
    assert part.steps == tuple(replace(step, index=index) for index, step in enumerate(expected))
