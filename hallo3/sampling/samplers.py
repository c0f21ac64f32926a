"""Samplers: functions of a denoiser, start noise, a schedule and a source of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .schedule import Schedule, Step

Predict = Callable[[Tensor, int], Tensor]
"""Noisy latents, step index -> velocities of the step's guidance branches, the conditional one last."""
ONE, TWO = np.float32(1), np.float32(2)
"""With a number of Python, NumPy before 2 computes in float64."""
MAX_GUIDANCE = 100.0
Denoise = Callable[[Tensor, Step], Tensor]
"""Noisy latents and their step -> denoised estimate, same shape, float32."""


UNCONDITIONAL, TEXT, CONDITIONAL = "unconditional", "text", "conditional"
"""Branches of guidance: zero text and silence; text and silence; text and speech. Face, reference and image
latents are the same in all (facts 6)."""
PAIR = UNCONDITIONAL, CONDITIONAL
"""The original's."""


class Guidance(NamedTuple):
    """Of one step: the ``branches`` to predict, and for each but the first the strength with which its
    difference from the one before it counts (docs/decisions/020-strengths.md)."""

    branches: tuple[str, ...]
    strengths: tuple[float, ...] = ()


def changed_steps(guidance: Sequence[Guidance]) -> list[int]:
    """Steps whose branches are not those of the step before."""
    pairs = enumerate(pairwise(guidance), 1)
    return [step for step, (before, after) in pairs if before.branches != after.branches]


def guided_denoiser(predict: Predict, strengths: float | Sequence[Sequence[float]]) -> Denoise:
    """Denoise with predicted velocities and classifier-free guidance, on x0 in float32 (facts 6). A number is
    the guidance scale of two branches in every step: the original computes a cosine schedule and ignores
    it. Otherwise ``strengths`` are those of every step's :class:`Guidance`."""

    def denoise(noisy: Tensor, step: Step) -> Tensor:
        velocity = predict(noisy, step.index).float()
        denoised = step.table_alpha * noisy - noise_scale(step.table_alpha) * velocity
        branches: Sequence[Tensor] = [denoised[i : i + 1] for i in range(len(denoised))]
        scales = (
            [strengths] * (len(branches) - 1) if isinstance(strengths, int | float) else strengths[step.index]
        )
        result = branches[0]
        for scale, (before, after) in zip(scales, pairwise(branches), strict=True):
            result = result + scale * (after - before)
        return result

    return denoise


def predict_by_step(kinds: Sequence[Hashable], predicts: Mapping[Any, Predict]) -> Predict:
    """Predict each step with the one of ``predicts`` that the step's kind names."""
    if len(predicts) == 1:
        return next(iter(predicts.values()))
    return lambda latents, step: predicts[kinds[step]](latents, step)


def noise_scale(alpha: float) -> float:
    """sqrt(1 - alpha^2), rounded to float32."""
    return float(np.sqrt(ONE - np.square(np.float32(alpha))))


StepNoise = Callable[[int], Tensor]
"""Step index -> normal noise in the latents' shape and type, on their device."""
Report = Callable[[int], None]
"""Number of finished steps -> None."""
Sampler = Callable[[Denoise, Tensor, Schedule, StepNoise, Report], Tensor]
"""Start noise [1, C, T, H, W] float32 -> latents, same shape."""
Array = npt.NDArray[np.float32]


def sample_dpmpp_2m_sde(
    denoise: Denoise, latents: Tensor, schedule: Schedule, noise: StepNoise, report: Report
) -> Tensor:
    """DPM-Solver++(2M) SDE (Lu et al. 2022, arXiv 2211.01095) as the original steps it. Golden
    ``sampler_toy_50steps``, bit for bit. The original draws noise twice in most steps and discards the first;
    a source keyed by step need not. A step to no noise, or too little for float32, returns the estimate."""
    previous: Tensor | None = None
    for step, c in zip(schedule.steps, solver_coefficients(schedule), strict=True):
        denoised = denoise(latents, step)
        if noise_scale(step.next_alpha) == 0.0:
            latents = denoised
        else:
            estimate = denoised if previous is None else c.this * denoised - c.last * previous
            latents = c.keep * latents - c.move * estimate + c.noise * noise(step.index)
        previous = denoised
        report(step.index + 1)
    return latents


def sample_ddim(
    denoise: Denoise, latents: Tensor, schedule: Schedule, noise: StepNoise, report: Report
) -> Tensor:
    """DDIM without noise (Song et al. 2020, arXiv 2010.02502, eta 0)."""
    del noise
    for step in schedule.steps:
        denoised = denoise(latents, step)
        next_noise = noise_scale(step.next_alpha)
        if next_noise == 0.0:
            latents = denoised
        else:
            direction = (latents - step.alpha * denoised) / noise_scale(step.alpha)
            latents = step.next_alpha * denoised + next_noise * direction
        report(step.index + 1)
    return latents


def sample_dpmpp_2m(
    denoise: Denoise, latents: Tensor, schedule: Schedule, noise: StepNoise, report: Report
) -> Tensor:
    """DPM-Solver++(2M) without noise (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order. The step
    from pure noise starts at an infinite log-SNR, so it and the next are first order: the formula's limit.
    The last step returns the estimate, as in the original's sampler."""
    del noise
    previous: Tensor | None = None
    for step, c in zip(schedule.steps, ode_coefficients(schedule), strict=True):
        denoised = denoise(latents, step)
        if step.next_alpha == 1.0:
            latents = denoised
        else:
            estimate = denoised if previous is None else denoised + c.ahead * (denoised - previous)
            latents = c.keep * latents + c.move * estimate
        previous = denoised
        report(step.index + 1)
    return latents


class OdeCoefficients(NamedTuple):
    """x' = keep x + move (x0 + ahead (x0 - x0_before))."""

    keep: float
    move: float
    ahead: float


def ode_coefficients(schedule: Schedule) -> tuple[OdeCoefficients, ...]:
    """Coefficients of every step, in double precision; finite for pure noise and for none.

    ``move`` is next_alpha (1 - exp(-h)), where h is the step in log-SNR; exp(-h) next_alpha is alpha keep.
    ``ahead`` is h over twice the previous h. A step from an alpha of 1 returns the estimate; after a step of
    0, ``ahead`` is 0.
    """
    alphas = [step.alpha for step in schedule.steps] + [schedule.steps[-1].next_alpha]
    sigmas = [math.sqrt((1 - alpha) * (1 + alpha)) for alpha in alphas]
    sizes = [_log_snr(after) - _log_snr(before) for before, after in pairwise(alphas)]
    coefficients: list[OdeCoefficients] = []
    for i, h in enumerate(sizes):
        keep = sigmas[i + 1] / sigmas[i] if sigmas[i] else 0.0
        ahead = h / (2 * sizes[i - 1]) if i and math.isfinite(h) and sizes[i - 1] > 0 else 0.0
        coefficients.append(OdeCoefficients(keep, alphas[i + 1] - alphas[i] * keep, ahead))
    return tuple(coefficients)


def _log_snr(alpha: float) -> float:
    """log(alpha / sigma): minus infinity for pure noise, infinity for none."""
    if alpha in (0.0, 1.0):
        return math.copysign(math.inf, alpha - 0.5)
    return math.log(alpha) - math.log((1 - alpha) * (1 + alpha)) / 2


class Coefficients(NamedTuple):
    """x' = keep x - move (this x0 - last x0_before) + noise n."""

    keep: float
    move: float
    noise: float
    this: float
    last: float


def solver_coefficients(schedule: Schedule) -> tuple[Coefficients, ...]:
    """Coefficients of every step in the original's order of float32 operations (facts 16), equal on every
    processor (facts 17). The last step's are not used and may be infinite or NaN."""
    alphas = np.array(
        [step.alpha for step in schedule.steps] + [schedule.steps[-1].next_alpha], dtype=np.float32
    )
    with np.errstate(all="ignore"):
        log_snr = _rounded(np.log, np.sqrt(alphas**2 / (1 - alphas**2)))
        return tuple(_coefficients(alphas, log_snr, step.index) for step in schedule.steps)


def _coefficients(alphas: Array, log_snr: Array, i: int) -> Coefficients:
    a, b = alphas[i], alphas[i + 1]
    h = log_snr[i + 1] - log_snr[i]
    keep = np.sqrt((ONE - np.square(b)) / (ONE - np.square(a))) * _rounded(np.exp, -h)
    move = _rounded(np.expm1, -TWO * h) * b
    noise = np.sqrt(ONE - np.square(b)) * np.sqrt(ONE - _rounded(np.exp, -TWO * h))
    this, last = ONE, np.float32(0)
    if i and log_snr[i] != log_snr[i - 1]:
        r = (log_snr[i] - log_snr[i - 1]) / h
        this, last = ONE + ONE / (TWO * r), ONE / (TWO * r)
    return Coefficients(*(float(value) for value in (keep, move, noise, this, last)))


def _rounded(function: Callable[[Any], Any], values: Any) -> Any:
    """Compute in float64 and round to float32 once."""
    return function(np.float64(values)).astype(np.float32)


SAMPLERS: dict[str, Sampler] = {
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""The original's first; ``ddim`` and ``dpmpp_2m`` add no noise."""
