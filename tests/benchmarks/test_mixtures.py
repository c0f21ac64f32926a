"""Samplers and approximations on data of known distribution; measured values are beside the limits."""

from dataclasses import replace

import pytest
import torch

from benchmarks import mixtures
from hallo3.settings import APPROXIMATIONS, Settings

COUNT = 1500
DATA = mixtures.make_mixture(6, 16, "data")
EXACT = Settings(steps=50, guidance_scale=1.0, sampler="dpmpp_2m_sde")
GUIDED = replace(EXACT, guidance_scale=3.5)


def energy(settings: Settings) -> float:
    samples = mixtures.sample(settings, DATA, COUNT).samples
    return mixtures.energy_distance(samples, DATA.samples(COUNT, "true"))


def test_the_ideal_denoiser_is_the_mean_of_what_could_have_been() -> None:
    """Regression of x0 on noisy samples leaves nothing: E[(x0 - estimate) f(noisy)] is 0 for any f."""
    alpha, clean = 0.6, DATA.samples(40_000, "clean")
    noisy = alpha * clean + (1 - alpha**2) ** 0.5 * mixtures.draw("dirt", *clean.shape)
    residual = clean - DATA.denoised(noisy, alpha)
    for feature in (torch.ones(len(clean), 1).double(), noisy, noisy.tanh()):
        assert float((residual.T @ feature / len(clean)).abs().max()) < 0.02
    assert float(residual.std()) < 0.7 * float((clean - noisy / alpha).std())


def test_distances_tell_what_is_apart() -> None:
    true, other = DATA.samples(COUNT, "true"), DATA.samples(COUNT, "other")
    assert abs(mixtures.energy_distance(true, other)) < 0.006
    assert mixtures.energy_distance(true, other + 0.2) > 0.02
    assert mixtures.sliced_w2(true, true) == 0
    assert mixtures.sliced_w2(true, other + 0.2) > 2 * mixtures.sliced_w2(true, other)


LIMITS = {("dpmpp_2m_sde", 50): 0.006, ("dpmpp_2m_sde", 20): 0.009}
LIMITS |= {("dpmpp_2m", 20): 0.006, ("ddim", 50): 0.006}


def test_samplers_reach_the_distribution() -> None:
    """Measured: at most 0.001 above what true samples are apart; 2 steps are 0.1 off."""
    found = {case: energy(replace(EXACT, sampler=case[0], steps=case[1])) for case in LIMITS}
    assert {case: far for case, far in found.items() if far >= LIMITS[case]} == {}
    assert energy(replace(EXACT, steps=2)) > 0.03


@pytest.mark.parametrize("settings", [EXACT, replace(EXACT, sampler="dpmpp_2m"), GUIDED])
def test_the_step_cache_stays_near_the_run_without(settings: Settings) -> None:
    """Measured: 0.02 to 0.12 of the spread, of which a reused step of the stochastic sampler makes most."""
    plain = mixtures.sample(settings, DATA, COUNT)
    cached = mixtures.sample(APPROXIMATIONS["step-cache"].apply(settings), DATA, COUNT)
    assert cached.evaluations == plain.evaluations - cached.cache.reused * settings.branches
    assert cached.cache.reused >= 5
    assert cached.cache.worst < settings.step_cache_bound
    assert not cached.cache.off
    assert 0 < mixtures.path_distance(cached, plain) < 0.2


def test_guidance_in_a_part_of_the_steps_computes_less() -> None:
    part = replace(GUIDED, guidance_interval=(0.2, 0.8))
    whole, some = (mixtures.sample(settings, DATA, 50) for settings in (GUIDED, part))
    assert (whole.evaluations, some.evaluations) == (GUIDED.evaluations, part.evaluations) == (100, 80)
    assert not torch.equal(whole.samples, some.samples)
