"""What samplers and approximations do to data whose distribution is known: ``python benchmarks/mixtures.py``.

    python benchmarks/mixtures.py --json docs/measurements/mixtures.json

The package's own schedule, samplers, guidance and step cache run on the ideal denoiser of a mixture of
normal distributions (:mod:`closed_form`). Without guidance samples are compared with true ones; what two sets
of true samples are apart is the floor. Guided samples have no such truth: they are compared with 1000 steps
of the same sampler, and for the interval also with the conditional distribution, which guidance leaves.
``path`` is how far samples are, one by one, from the same run without the approximation, in shares of their
spread.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from closed_form import (  # noqa: E402
    Mixture,
    as_latents,
    as_samples,
    drawn,
    energy_distance,
    mixture,
    perfect,
    sliced_w2,
)

from hallo3.pipeline import make_step_cache  # noqa: E402
from hallo3.sampling.samplers import SAMPLERS, guided_denoiser, limit_guidance, noise_scale  # noqa: E402  # noqa: E402
from hallo3.sampling.schedule import Step, make_schedule  # noqa: E402
from hallo3.sampling.step_cache import CacheReport, Estimate, Reuse, extrapolate  # noqa: E402
from hallo3.settings import APPROXIMATIONS, Settings  # noqa: E402

CHANNELS, COMPONENTS, COUNT, CONDITION = 16, 6, 2000, slice(0, 2)
STEPS, SCALE, REFERENCE = (50, 30, 20, 10), 3.5, 1000
THRESHOLDS = (0.1, 0.2)
INTERVALS = ((0.0, 1.0), (0.1, 0.9), (0.2, 0.8), (0.3, 0.9), (0.3, 1.0), (0.4, 0.9), (0.0, 0.5))


class Sampled(NamedTuple):
    """Samples [N, C], the evaluations of a branch each that they took, and what the cache did."""

    samples: Tensor
    evaluations: int
    cache: CacheReport


def sampled(
    settings: Settings, data: Mixture, count: int = COUNT, reuse: Reuse = extrapolate, name: str = "run"
) -> Sampled:
    """One run of the package's own machinery; the condition is some of the components."""
    steps, part, taken = make_schedule(settings.steps), data.part(CONDITION), 0

    def counted(*branches: Mixture):
        network = perfect(branches, steps)

        def predict(latents: Tensor, step: int) -> Tensor:
            nonlocal taken
            taken += len(branches)
            return network(latents, step)

        return predict

    def noise(index: int) -> Tensor:
        return as_latents(drawn(f"{name} {settings.steps} {index}", count, data.means.shape[1]))

    if settings.branches == 1:
        predict = counted(data)
    else:
        predict = limit_guidance(settings.guided, counted(data, part), counted(part))
    denoise = guided_denoiser(predict, settings.guidance_scale)
    cache = make_step_cache(settings, denoise, reuse)
    start = as_latents(drawn(f"{name} start", count, data.means.shape[1]))
    made = SAMPLERS[settings.sampler](cache or denoise, start, steps, noise, lambda _: None)
    return Sampled(as_samples(made), taken, cache.report if cache else CacheReport())


def held(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The last estimate as it is."""
    del before, noisy, step
    return last.denoised


def held_velocity(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The estimate from the latents as they are now and the velocity as it was."""
    del before
    alpha = last.step.alpha
    velocity = (alpha * last.noisy - last.denoised) / noise_scale(alpha)
    return step.alpha * noisy - noise_scale(step.alpha) * velocity


def log_snr_line(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The line through two estimates over log-SNR; the last one out of pure noise, where there is none."""
    if before.step.alpha == 0:
        return held(last, before, noisy, step)
    at = [math.log(s.alpha / noise_scale(s.alpha)) for s in (before.step, last.step, step)]
    return last.denoised + (at[2] - at[1]) / (at[1] - at[0]) * (last.denoised - before.denoised)


REUSES = {
    "line over steps": extrapolate,
    "line over log-SNR": log_snr_line,
    "estimate held": held,
    "velocity held": held_velocity,
}


def distances(found: Tensor, wanted: Tensor) -> dict[str, float]:
    return {
        "sliced_w2": round(sliced_w2(found, wanted), 4),
        "energy": round(energy_distance(found, wanted), 5),
    }


def row(found: Sampled, **more: float) -> dict[str, Any]:
    said: dict[str, Any] = {"evaluations": found.evaluations, **more}
    if found.cache.steps:
        said |= {"reused": found.cache.reused, "worst_check": round(found.cache.worst, 3)}
        said |= {"switched_off": bool(found.cache.off)}
    return said


def path(found: Sampled, exact: Sampled) -> float:
    apart = (found.samples - exact.samples).square().mean().sqrt() / exact.samples.std()
    return round(float(apart), 4)


def variants(settings: Settings) -> dict[str, Settings]:
    """A run's approximations, alone and together."""
    chosen = list(APPROXIMATIONS.values())
    if settings.branches == 1:
        chosen = [each for each in chosen if each.name != "guidance-middle"]
    found = {each.name: each.apply(settings) for each in chosen if "steps" not in each.changes}
    together = settings
    for each in (*found, "steps-30"):
        together = APPROXIMATIONS[each].apply(together)
    return {**found, " + ".join((*found, "steps-30")): together}


def table(data: Mixture, scale: float) -> dict[str, Any]:
    """Every sampler at every number of steps, and its approximations at the most."""
    found: dict[str, Any] = {}
    for sampler in SAMPLERS:
        exact = Settings(steps=STEPS[0], guidance_scale=scale, sampler=sampler)
        if scale == 1:
            wanted = data.samples(COUNT, "true")
        else:
            wanted = sampled(replace(exact, steps=REFERENCE), data).samples
        base = sampled(exact, data)
        for steps in STEPS:
            one = base if steps == STEPS[0] else sampled(replace(exact, steps=steps), data)
            found[f"{sampler}, {steps} steps"] = row(one, **distances(one.samples, wanted))
        for name, settings in variants(exact).items():
            one = sampled(settings, data)
            found[f"{sampler}, {name}"] = row(one, **distances(one.samples, wanted), path=path(one, base))
    return found


def reuses(data: Mixture) -> dict[str, Any]:
    """What to reuse, at several thresholds, with and without guidance."""
    found: dict[str, Any] = {}
    for scale in (1.0, SCALE):
        for sampler in SAMPLERS:
            exact = Settings(steps=STEPS[0], guidance_scale=scale, sampler=sampler)
            base = sampled(exact, data, COUNT // 2)
            for threshold in THRESHOLDS:
                cached = replace(exact, step_cache=threshold, step_cache_bound=1.0)
                for name, reuse in REUSES.items():
                    one = sampled(cached, data, COUNT // 2, reuse)
                    key = f"{sampler}, guidance {scale:g}, {threshold:g}, {name}"
                    found[key] = row(one, path=path(one, base))
    return found


def intervals(data: Mixture) -> dict[str, Any]:
    """Guidance in a part of 50 steps: how far from guidance throughout, and from the condition itself."""
    found: dict[str, Any] = {}
    truth = data.part(CONDITION).samples(COUNT, "conditional")
    exact = Settings(steps=STEPS[0], guidance_scale=SCALE, sampler="dpmpp_2m_sde")
    base = sampled(exact, data)
    for low, high in INTERVALS:
        one = sampled(replace(exact, guidance_interval=(low, high)), data)
        apart = round(energy_distance(one.samples, base.samples), 5)
        true = round(energy_distance(one.samples, truth), 5)
        key = f"{low:g} to {high:g}"
        found[key] = row(one, path=path(one, base), energy_from_guided=apart, energy_from_condition=true)
    return found


def report() -> dict[str, Any]:
    """Every figure."""
    data = mixture(COMPONENTS, CHANNELS, "data")
    true, other = data.samples(COUNT, "true"), data.samples(COUNT, "other")
    return {
        "floor": distances(other, true),
        "without guidance, against true samples": table(data, 1.0),
        f"guidance {SCALE}, against {REFERENCE} steps": table(data, SCALE),
        "guidance interval, 50 steps of dpmpp_2m_sde": intervals(data),
        "what a step cache reuses, 50 steps": reuses(data),
    }


@torch.no_grad()
def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    began = time.perf_counter()
    found = report()
    for title, rows in found.items():
        print(f"\n{title}")
        for name, figures in rows.items():
            said = (
                figures
                if not isinstance(figures, dict)
                else "  ".join(f"{k} {v}" for k, v in figures.items())
            )
            print(f"  {name:52} {said}")
    print(f"\n{time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
