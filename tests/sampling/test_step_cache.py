"""The step cache: when it reuses, what, how it is checked, and its report."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hallo3.sampling.samplers import sample_dpmpp_2m
from hallo3.sampling.schedule import Step, make_schedule
from hallo3.sampling.step_cache import CHECK_INTERVAL, MIN_COMPUTED_STEPS, CacheReport, StepCache

SHAPE = (1, 2, 3, 2, 2)
DIRECTION = torch.linspace(-1, 1, 24).reshape(SHAPE)


class Network:
    """Denoises to what ``at`` says of a step's index, and notes the steps that it was asked for."""

    def __init__(self, at) -> None:
        self.at, self.asked = at, list[int]()

    def __call__(self, noisy: Tensor, step: Step) -> Tensor:
        del noisy
        self.asked.append(step.index)
        return self.at(step.index)


def run(network: Network, steps: int, threshold: float, bound: float = 1.0, **more) -> StepCache:
    cache = StepCache(network, steps, threshold, bound, **more)
    noise = torch.ones(SHAPE)
    sample_dpmpp_2m(cache, noise, make_schedule(steps), lambda _: noise, lambda _: None)
    return cache


def line(index: int) -> Tensor:
    return DIRECTION * (1 + index)


def hostile(index: int) -> Tensor:
    """Still at first, then another picture at every step."""
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(index))
    return DIRECTION if index < 8 else other


@pytest.mark.parametrize("steps", [5, 8, 30, 50])
def test_what_moves_on_a_straight_line_is_reused_exactly(steps: int) -> None:
    network = Network(line)
    cache = run(network, steps, 0.01)
    candidates = range(MIN_COMPUTED_STEPS, steps - 1)
    checked = list(candidates[CHECK_INTERVAL - 1 :: CHECK_INTERVAL])
    assert network.asked == [*range(MIN_COMPUTED_STEPS), *checked, steps - 1]
    reused, report = len(candidates) - len(checked), cache.report
    assert report == CacheReport(steps, reused, len(checked), report.worst, off=0)
    assert report.worst < 1e-6
    cache = StepCache(Network(line), steps, 0.01, 1.0)
    for step in make_schedule(steps).steps:
        assert torch.allclose(cache(torch.zeros(SHAPE), step), line(step.index), rtol=1e-5), step.index


def test_few_steps_and_those_that_must_be_are_computed() -> None:
    for steps in (1, 2, 3, 4):
        network = Network(line)
        assert run(network, steps, 1.0).report == CacheReport(steps=steps)
        assert network.asked == list(range(steps))
    for must in ((5, 11), ()):
        network = Network(line)
        run(network, 20, 1.0, at_least=must)
        assert ({5, 11} <= set(network.asked)) == bool(must)


def test_a_lower_threshold_computes_more() -> None:
    """Of estimates that bend, so that no line fits."""
    computed: list[int] = []
    for threshold in (1e-4, 0.02, 0.1, 0.4):
        network = Network(lambda index: DIRECTION + torch.sin(torch.tensor(index * 0.2)) * DIRECTION.flip(1))
        run(network, 50, threshold)
        computed.append(len(network.asked))
    assert computed[0] == 50
    assert all(more > fewer for more, fewer in pairwise(computed))


def test_a_hostile_denoiser_makes_the_check_switch_the_cache_off() -> None:
    network = Network(hostile)
    report = run(network, 50, 0.2, bound=0.2).report
    assert report.off == 1
    assert report.worst > 0.5
    switched = MIN_COMPUTED_STEPS + report.reused + report.checks
    assert network.asked[-(50 - switched) :] == list(range(switched, 50)), "something was reused after that"
    assert report.reused <= 2 * CHECK_INTERVAL
    assert run(Network(hostile), 50, 0.2, bound=1e9).report.off == 0


def test_estimates_that_are_not_finite_are_never_reused() -> None:
    for bad in (float("nan"), float("inf")):
        network = Network(lambda index, bad=bad: DIRECTION * (bad if index == 1 else 1))
        cache = StepCache(network, 10, 1.0, 1.0)
        for step in make_schedule(10).steps[:4]:
            cache(torch.zeros(SHAPE), step)
        assert network.asked == [0, 1, 2, 3]


def test_reports_of_segments_add_up() -> None:
    both = CacheReport(50, 20, 6, 0.08, 0) + CacheReport(50, 2, 1, 0.4, 1)
    assert both == CacheReport(100, 22, 7, 0.4, 1)
    assert both.text() == (
        "step cache: 22 of 100 steps were not computed; 7 were computed to check, the worst was 40.0% off; "
        "switched off in 1 segment, where that was too much"
    )
    assert CacheReport(50).text() == "step cache: 0 of 50 steps were not computed"


def test_nothing_is_read_from_the_device_while_steps_are_reused() -> None:
    """On meta any reading raises."""
    cache, steps = StepCache(Network(line), 20, 0.1, 1.0), make_schedule(20).steps
    for step in steps[:MIN_COMPUTED_STEPS]:
        cache(torch.zeros(SHAPE), step)
    cache._last_two = tuple(e._replace(denoised=e.denoised.to("meta")) for e in cache._last_two)
    assert cache(torch.zeros(SHAPE, device="meta"), steps[MIN_COMPUTED_STEPS]).device.type == "meta"
