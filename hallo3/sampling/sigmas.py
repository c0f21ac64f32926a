"""Schedules in k-diffusion's terms, where noise is added and ``sigma`` is its size (Karras et al. 2022).

``alpha`` is the signal's share of a variance-preserving mix; there ``sigma = sqrt(1 - alpha^2) / alpha`` and
a noisy latent is ``sqrt(1 + sigma^2)`` times as large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .schedule import TRAIN_STEPS, Schedule, Step, picked_alphas, schedule


def sigmas_of(steps: int, sigma_max: float) -> Tensor:
    """The original's schedule as sigmas [steps + 1], float32, falling to 0.

    It begins with pure noise, whose sigma is infinite: ``sigma_max`` stands for it.
    """
    alphas = picked_alphas(steps)[1].double()
    sigmas = torch.from_numpy(np.sqrt((1 - alphas**2).numpy())) / alphas
    sigmas[alphas == 0] = sigma_max
    return sigmas.float()


def schedule_of(sigmas: Tensor, sigma_max: float, timestep: Callable[[float], float]) -> Schedule:
    """Sigmas [N + 1] as steps; the original's own, whole or a part, give the original's steps exactly.

    Of any other schedule the network is told what ``timestep`` says of each sigma, and nothing is snapped
    to the training table.
    """
    values = sigmas.float().cpu()
    found = _part_of_the_original(values, sigma_max)
    if found is not None:
        return found
    ends = [alpha_of(float(sigma)) for sigma in values]

    def step(index: int) -> Step:
        alpha, following = ends[index], ends[index + 1]
        told = timestep(float(values[index]))
        return Step(index=index, timestep=told, alpha=alpha, next_alpha=following, table_alpha=alpha)

    return Schedule(tuple(step(index) for index in range(len(values) - 1)))


def _part_of_the_original(values: Tensor, sigma_max: float) -> Schedule | None:
    """The steps that these sigmas were cut from; the whole schedule is looked at first."""
    for steps in range(len(values) - 1, TRAIN_STEPS + 1):
        whole = sigmas_of(steps, sigma_max)
        for place in (whole == values[0]).nonzero():
            first = int(place)
            if torch.equal(whole[first : first + len(values)], values):
                cut = schedule(steps).steps[first : first + len(values) - 1]
                return Schedule(tuple(replace(step, index=i) for i, step in enumerate(cut)), first)
    return None


def alpha_of(sigma: float) -> float:
    """The signal's share under noise of this size."""
    return (1 + sigma**2) ** -0.5
