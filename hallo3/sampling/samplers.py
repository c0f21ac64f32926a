"""Samplers: each is one function that knows a denoiser, a schedule and a source of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .denoiser import Denoise, noise_share
from .schedule import Schedule, Step

StepNoise = Callable[[int], Tensor]
"""Step index -> fresh normal noise in the latents' shape, type and place."""
Report = Callable[[int], None]
"""Called with the number of finished steps."""
Sampler = Callable[[Denoise, Tensor, Schedule, StepNoise, Report], Tensor]
"""Start noise [1, C, T, H, W] float32 -> latents, same shape."""


def sample_dpmpp_2m_sde(
    denoise: Denoise, latents: Tensor, schedule: Schedule, noise: StepNoise, report: Report
) -> Tensor:
    """DPM-Solver++(2M) SDE (Lu et al. 2022, arXiv 2211.01095) as the original steps it.

    Golden ``sampler_toy_50steps``, bit for bit. The original draws noise twice in most steps and
    discards the first; a source keyed by step need not. The last step returns the estimate itself.
    """
    previous: Tensor | None = None
    for step, c in zip(schedule.steps, solver_coefficients(schedule), strict=True):
        denoised = denoise(latents, step)
        if step.next_alpha == 1.0:
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
    """DDIM without noise (Song et al. 2020, arXiv 2010.02502, eta 0): the start noise decides all."""
    del noise
    for step in schedule.steps:
        denoised = denoise(latents, step)
        leftover = (latents - step.alpha * denoised) / noise_share(step.alpha)
        latents = step.next_alpha * denoised + noise_share(step.next_alpha) * leftover
        report(step.index + 1)
    return latents


class Coefficients(NamedTuple):
    """x' = keep x - move (this x0 - last x0_before) + noise n."""

    keep: float
    move: float
    noise: float
    this: float
    last: float


def solver_coefficients(schedule: Schedule) -> tuple[Coefficients, ...]:
    """Every step's multipliers, in the float32 order of operations that gives the goldens' bits
    (facts 16). Those of the last step, which are not used, come out as they will."""
    ends = [step.alpha for step in schedule.steps] + [schedule.steps[-1].next_alpha]
    alphas = torch.tensor(ends, dtype=torch.float32)
    log_snr = torch.log(torch.sqrt(alphas**2 / (1 - alphas**2)))
    return tuple(_coefficients(alphas, log_snr, step) for step in schedule.steps)


def _coefficients(alphas: Tensor, log_snr: Tensor, step: Step) -> Coefficients:
    i = step.index
    a, b = alphas[i], alphas[i + 1]
    h = log_snr[i + 1] - log_snr[i]
    keep = torch.sqrt((1 - b**2) / (1 - a**2)) * torch.exp(-h)
    move = torch.expm1(-2 * h) * b
    noise = torch.sqrt(1 - b**2) * torch.sqrt(1 - torch.exp(-2 * h))
    if i == 0:
        this, last = torch.ones(()), torch.zeros(())
    else:
        r = (log_snr[i] - log_snr[i - 1]) / h
        this, last = 1 + 1 / (2 * r), 1 / (2 * r)
    return Coefficients(*(float(value) for value in (keep, move, noise, this, last)))


SAMPLERS: dict[str, Sampler] = {"dpmpp_2m_sde": sample_dpmpp_2m_sde, "ddim": sample_ddim}


def sampler_named(name: str) -> Sampler:
    """The sampler of that name; ``InputError`` lists the names there are."""
    try:
        return SAMPLERS[name]
    except KeyError:
        raise InputError(
            "This sampler does not exist.",
            found=repr(name),
            expected=" or ".join(SAMPLERS),
            do="choose one of these",
        ) from None
