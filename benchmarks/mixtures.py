"""What samplers and approximations do to data with a known distribution.

The package's own schedule, samplers, guidance and step cache run on the ideal denoiser of a mixture of
correlated normal distributions; a latent [1, C, 1, N, 1] holds N independent samples of C numbers. Without
guidance, samples are compared with true ones; the floor is the distance of two sets of true samples. Guided
samples have no such truth: they are compared with 1000 steps of the same sampler, and for the interval also
with the conditional distribution, which guidance leaves. ``path`` is the distance of samples, one by one,
from the same run without the approximation, relative to their spread.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Result, Scenario
from hallo3.noise import make_generator
from hallo3.sampling.samplers import SAMPLERS, guided_denoiser, noise_scale, predict_by_step
from hallo3.sampling.schedule import Step, denoiser_table, make_schedule
from hallo3.sampling.step_cache import CacheReport, Estimate, Reuse, extrapolate
from hallo3.settings import APPROXIMATIONS, Settings, make_step_cache

CHANNELS, COMPONENTS, COUNT, CONDITION = 16, 6, 2000, slice(0, 2)
STEPS, SCALE, REFERENCE = (50, 30, 20, 10), 3.5, 1000
THRESHOLDS = (0.1, 0.2)
INTERVALS = ((0.0, 1.0), (0.1, 0.9), (0.2, 0.8), (0.3, 0.9), (0.3, 1.0), (0.4, 0.9), (0.0, 0.5))


def draw(name: str, *shape: int) -> Tensor:
    """Standard normal numbers by name, float64."""
    return torch.from_numpy(make_generator(name).standard_normal(shape))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Normal distributions ``weights`` [K], ``means`` [K, C], covariances ``axes diag(sizes) axes^T``
    ([K, C, C], [K, C]), all float64."""

    weights: Tensor
    means: Tensor
    axes: Tensor
    sizes: Tensor

    def part(self, chosen: slice) -> Mixture:
        """Some of the components, as a distribution of their own."""
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.axes[chosen], self.sizes[chosen])

    def samples(self, count: int, name: str) -> Tensor:
        """True samples [count, C]."""
        generator = make_generator(f"{name} which")
        shares = self.weights.numpy() / self.weights.sum().item()
        which = torch.from_numpy(generator.choice(len(shares), count, p=np.asarray(shares)))
        own = draw(name, count, self.means.shape[1]) * self.sizes[which].sqrt()
        return self.means[which] + torch.einsum("ncd,nd->nc", self.axes[which], own)

    def denoised(self, noisy: Tensor, alpha: float) -> Tensor:
        """E[x0 | noisy], [N, C] float64, where ``noisy`` = alpha x0 + sqrt(1 - alpha^2) noise."""
        spread = alpha**2 * self.sizes + 1 - alpha**2
        centred = torch.einsum("nkc,kcd->nkd", noisy[:, None] - alpha * self.means, self.axes)
        score = self.weights.log() - (centred.square() / spread + spread.log()).sum(dim=2) / 2
        shrunk = torch.einsum("nkd,kcd->nkc", centred * (alpha * self.sizes / spread), self.axes)
        return (score.softmax(dim=1)[..., None] * (self.means + shrunk)).sum(dim=1)

    def velocity(self, noisy: Tensor, alpha: float) -> Tensor:
        """What a perfect network predicts: (alpha noisy - E[x0 | noisy]) / sqrt(1 - alpha^2)."""
        return (alpha * noisy - self.denoised(noisy, alpha)) / (1 - alpha**2) ** 0.5


def make_mixture(components: int, channels: int, name: str, apart: float = 1.0) -> Mixture:
    """Components of unequal weight and correlated channels; the whole has about the size of latents, 1."""
    weights = torch.from_numpy(make_generator(f"{name} weights").uniform(0.5, 1.5, components))
    axes = torch.linalg.qr(draw(f"{name} axes", components, channels, channels)).Q
    sizes = torch.logspace(0, -3, channels, dtype=torch.float64).repeat(components, 1) * 0.6
    means = apart * draw(f"{name} means", components, channels)
    return Mixture(weights / weights.sum(), means, axes, sizes)


def as_samples(latents: Tensor) -> Tensor:
    """[1, C, 1, N, 1] -> [N, C] float64."""
    return latents[0, :, 0, :, 0].T.double()


def as_latents(samples: Tensor) -> Tensor:
    """[N, C] -> [1, C, 1, N, 1] float32."""
    return samples.T[None, :, None, :, None].float()


def sliced_w2(samples: Tensor, reference: Tensor, directions: int = 128) -> float:
    """Sliced Wasserstein-2 distance of two sets of samples [N, C] (Bonneel et al. 2015): 0 for equal sets."""
    axes = draw("directions", samples.shape[1], directions)
    axes = axes / axes.norm(dim=0)
    gap = (samples @ axes).sort(dim=0).values - (reference @ axes).sort(dim=0).values
    return float(gap.square().mean().sqrt())


def energy_distance(samples: Tensor, reference: Tensor) -> float:
    """Energy distance of two sets of samples [N, C] (Szekely and Rizzo 2013), unbiased: about 0, and now and
    then below, for samples of one distribution."""

    def own(points: Tensor) -> float:
        return float(torch.cdist(points, points).sum()) / (len(points) * (len(points) - 1))

    return 2 * float(torch.cdist(samples, reference).mean()) - own(samples) - own(reference)


class Samples(NamedTuple):
    """Samples [N, C], the evaluations of a branch each that they took, and what the cache did."""

    samples: Tensor
    evaluations: int
    cache: CacheReport


def sample(
    settings: Settings, data: Mixture, count: int = COUNT, reuse: Reuse = extrapolate, name: str = "run"
) -> Samples:
    """One run of the package's own machinery; the condition is some of the components. The perfect network
    trusts its timestep, as the released one does, which differs slightly from the sampler's alpha (golden
    ``schedule``)."""
    steps, part, table, taken = make_schedule(settings.steps), data.part(CONDITION), denoiser_table(), 0

    def counted(*branches: Mixture) -> Callable[[Tensor, int], Tensor]:
        def predict(latents: Tensor, step: int) -> Tensor:
            nonlocal taken
            taken += len(branches)
            alpha = float(table[int(steps.steps[step].timestep)])
            return torch.cat([as_latents(each.velocity(as_samples(latents), alpha)) for each in branches])

        return predict

    def noise(index: int) -> Tensor:
        return as_latents(draw(f"{name} {settings.steps} {index}", count, data.means.shape[1]))

    guidance = settings.guidance()
    alone = counted(data) if settings.branches == 1 else counted(part)
    kinds = [len(each.branches) for each in guidance]
    predict = predict_by_step(kinds, {1: alone, 2: counted(data, part)})
    denoise = guided_denoiser(predict, [each.strengths for each in guidance])
    cache = make_step_cache(settings, denoise, guidance, reuse)
    start = as_latents(draw(f"{name} start", count, data.means.shape[1]))
    latents = SAMPLERS[settings.sampler](cache or denoise, start, steps, noise, lambda _: None)
    return Samples(as_samples(latents), taken, cache.report if cache else CacheReport())


def hold_estimate(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The last estimate as it is."""
    del before, noisy, step
    return last.denoised


def hold_velocity(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The estimate from the latents as they are now and the velocity as it was."""
    del before
    alpha = last.step.alpha
    velocity = (alpha * last.noisy - last.denoised) / noise_scale(alpha)
    return step.alpha * noisy - noise_scale(step.alpha) * velocity


def extrapolate_log_snr(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The line through two estimates over log-SNR; after pure noise, which has none, the last estimate."""
    if before.step.alpha == 0:
        return hold_estimate(last, before, noisy, step)
    at = [math.log(s.alpha / noise_scale(s.alpha)) for s in (before.step, last.step, step)]
    return last.denoised + (at[2] - at[1]) / (at[1] - at[0]) * (last.denoised - before.denoised)


REUSES = {
    "line over steps": extrapolate,
    "line over log-SNR": extrapolate_log_snr,
    "estimate held": hold_estimate,
    "velocity held": hold_velocity,
}


def distances(samples: Tensor, reference: Tensor) -> dict[str, float]:
    return {
        "sliced_w2": round(sliced_w2(samples, reference), 4),
        "energy": round(energy_distance(samples, reference), 5),
    }


def make_row(run: Samples, **more: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"evaluations": run.evaluations, **more}
    if run.cache.steps:
        worst, off = round(run.cache.worst, 3), bool(run.cache.off)
        figures |= {"reused": run.cache.reused, "worst_check": worst, "switched_off": off}
    return figures


def path_distance(run: Samples, exact: Samples) -> float:
    distance = (run.samples - exact.samples).square().mean().sqrt() / exact.samples.std()
    return round(float(distance), 4)


def list_variants(settings: Settings) -> dict[str, Settings]:
    """A run's approximations, alone and together."""
    chosen = list(APPROXIMATIONS.values())
    if settings.branches == 1:
        chosen = [each for each in chosen if each.name != "guidance-middle"]
    variants = {each.name: each.apply(settings) for each in chosen if "steps" not in each.changes}
    together = settings
    for each in (*variants, "steps-30"):
        together = APPROXIMATIONS[each].apply(together)
    return {**variants, " + ".join((*variants, "steps-30")): together}


def compare_samplers(data: Mixture, scale: float) -> dict[str, Any]:
    """Every sampler at every number of steps, and its approximations at the most."""
    rows: dict[str, Any] = {}
    for sampler in SAMPLERS:
        exact = Settings(steps=STEPS[0], guidance_scale=scale, sampler=sampler)
        long = replace(exact, steps=REFERENCE)
        reference = data.samples(COUNT, "true") if scale == 1 else sample(long, data).samples
        base = sample(exact, data)
        for steps in STEPS:
            one = base if steps == STEPS[0] else sample(replace(exact, steps=steps), data)
            rows[f"{sampler}, {steps} steps"] = make_row(one, **distances(one.samples, reference))
        for name, settings in list_variants(exact).items():
            one = sample(settings, data)
            apart = distances(one.samples, reference)
            rows[f"{sampler}, {name}"] = make_row(one, **apart, path=path_distance(one, base))
    return rows


def compare_reuses(data: Mixture) -> dict[str, Any]:
    """What to reuse, at several thresholds, with and without guidance."""
    rows: dict[str, Any] = {}
    for scale in (1.0, SCALE):
        for sampler in SAMPLERS:
            exact = Settings(steps=STEPS[0], guidance_scale=scale, sampler=sampler)
            base = sample(exact, data, COUNT // 2)
            for threshold in THRESHOLDS:
                cached = replace(exact, step_cache=threshold, step_cache_bound=1.0)
                for name, reuse in REUSES.items():
                    one = sample(cached, data, COUNT // 2, reuse)
                    key = f"{sampler}, guidance {scale:g}, {threshold:g}, {name}"
                    rows[key] = make_row(one, path=path_distance(one, base))
    return rows


def compare_intervals(data: Mixture) -> dict[str, Any]:
    """Guidance in a part of 50 steps: how far from guidance throughout, and from the condition itself."""
    rows: dict[str, Any] = {}
    truth = data.part(CONDITION).samples(COUNT, "conditional")
    exact = Settings(steps=STEPS[0], guidance_scale=SCALE, sampler="dpmpp_2m_sde")
    base = sample(exact, data)
    for low, high in INTERVALS:
        one = sample(replace(exact, guidance_interval=(low, high)), data)
        others = {"energy_from_guided": base.samples, "energy_from_condition": truth}
        apart = {name: round(energy_distance(one.samples, other), 5) for name, other in others.items()}
        rows[f"{low:g} to {high:g}"] = make_row(one, path=path_distance(one, base), **apart)
    return rows


@torch.no_grad()
def measure(_: Namespace) -> Result:
    data = make_mixture(COMPONENTS, CHANNELS, "data")
    true, other = data.samples(COUNT, "true"), data.samples(COUNT, "other")
    return {
        "floor": distances(other, true),
        "without guidance, against true samples": compare_samplers(data, 1.0),
        f"guidance {SCALE}, against {REFERENCE} steps": compare_samplers(data, SCALE),
        "guidance interval, 50 steps of dpmpp_2m_sde": compare_intervals(data),
        "what a step cache reuses, 50 steps": compare_reuses(data),
    }


def show(result: Result, _: Namespace) -> None:
    for title, rows in list(result.items())[2:]:
        print(f"\n{title}")
        for name, figures in rows.items():
            values = figures.items() if isinstance(figures, dict) else [("", figures)]
            print(f"  {name:52} " + "  ".join(f"{key} {value}" for key, value in values))


MIXTURES = Scenario(measure=measure, show=show)
