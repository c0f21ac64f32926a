"""v-prediction and guidance: the only thing a sampler sees of the network is (x, step) -> x0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from .schedule import Step

Predict = Callable[[Tensor, int], Tensor]
"""Noisy latents and a step's index -> velocities of one branch, or of both."""
Denoise = Callable[[Tensor, Step], Tensor]
"""Noisy latents and the step they stand at -> denoised estimate, same shape, float32."""


def guided_denoiser(predict: Predict, guidance_scale: float) -> Denoise:
    """Denoise by a network that predicts the velocity of one branch, or of an unconditional and a
    conditional one (batch of 2, in that order).

    Guidance stays at ``guidance_scale`` for all steps: the original computes a cosine schedule and
    ignores it. It acts on x0 in float32 (facts 6).
    """

    def denoise(noisy: Tensor, step: Step) -> Tensor:
        velocity = predict(noisy, step.index).float()
        denoised = step.table_alpha * noisy - noise_share(step.table_alpha) * velocity
        if len(denoised) == 1:
            return denoised
        without, given = denoised[:1], denoised[1:]
        return without + guidance_scale * (given - without)

    return denoise


def guided_within(guided: range, both: Predict, conditional: Predict) -> Predict:
    """Both branches in the steps ``guided``, the conditional one alone in all others (guidance in a limited
    interval: Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
    return lambda latents, step: (both if step in guided else conditional)(latents, step)


def noise_share(alpha: float) -> float:
    """sqrt(1 - alpha^2), rounded as float32 rounds it."""
    return float(np.sqrt(1 - np.float32(alpha) ** 2))
