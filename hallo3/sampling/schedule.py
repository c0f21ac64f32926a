"""The zero-terminal-SNR noise schedule, in the original's order of roundings (facts 6 and 16).

``alpha`` is sqrt(alpha-bar), the signal's share: 0 for pure noise, 1 for none. All is computed in float32 on
the CPU and returned as Python floats, so that a step never waits for a device.

Square roots are NumPy's, and logarithms and exponentials are computed in float64 and rounded once: torch's
float32 versions on a CPU differ by an ulp between processors (facts 17).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


@dataclass(frozen=True, slots=True)
class Step:
    """One sampling step from ``alpha`` to ``next_alpha``. ``timestep`` is the network's input; the denoiser
    scales by ``table_alpha``, the entry of the training table nearest to ``alpha``. The two need not agree
    (golden ``schedule``)."""

    index: int
    timestep: float
    alpha: float
    next_alpha: float
    table_alpha: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps from noise to latents; ``first`` is the first step's index in the schedule that these are a part
    of."""

    steps: tuple[Step, ...]
    first: int = 0

    @property
    def timesteps(self) -> Tensor:
        """[N] float32."""
        return torch.tensor([step.timestep for step in self.steps], dtype=torch.float32)


def make_schedule(steps: int) -> Schedule:
    """The original's schedule for 1 to 1000 steps: the selected entries are rescaled among themselves. The
    original gives NaN for 1 step and crashes for 1000."""
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(f"{steps} steps are not within 1 to {TRAIN_STEPS}")
    table = denoiser_table()
    timesteps, alphas = select_alphas(steps)
    nearest = (table[None] - alphas[:-1, None]).abs().argmin(dim=1)
    return Schedule(
        tuple(
            Step(i, timesteps[i], float(alphas[i]), float(alphas[i + 1]), float(table[nearest[i]]))
            for i in range(steps)
        )
    )


def select_alphas(steps: int) -> tuple[list[int], Tensor]:
    """Timesteps [steps], and alphas [steps + 1], the last of which is 1."""
    timesteps: list[int] = np.linspace(TRAIN_STEPS - 1, 0, steps, endpoint=False).astype(int).tolist()
    picked = _training_alphas()[timesteps[::-1]]
    return timesteps, torch.cat((rescale_zero_terminal(picked).flip(0), torch.ones(1)))


def denoiser_table() -> Tensor:
    """The training alphas [1000], rescaled over all of them, which the denoiser snaps to."""
    return rescale_zero_terminal(_training_alphas())


def rescale_zero_terminal(alphas: Tensor) -> Tensor:
    """Shift and scale alphas of increasing noise so that the last is 0 and the first stays."""
    if len(alphas) == 1:
        return torch.zeros(1)
    first, last = alphas[0], alphas[-1]
    return (alphas - last) * (first / (first - last))


def _training_alphas() -> Tensor:
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64)
    squares = torch.cumprod(1.0 - roots**2, dim=0).to(torch.float32)
    return torch.from_numpy(np.sqrt(squares.numpy()))  # torch's rounds differently per processor


def schedule_to_sigmas(steps: int, sigma_max: float) -> Tensor:
    """The original's schedule as float32 sigmas [steps + 1], down to 0; ``sigma_max`` stands for the infinite
    sigma of pure noise."""
    alphas = select_alphas(steps)[1].double()
    sigmas = torch.from_numpy(np.sqrt((1 - alphas**2).numpy())) / alphas
    sigmas[alphas == 0] = sigma_max
    return sigmas.float()


def sigmas_to_schedule(sigmas: Tensor, sigma_max: float, timestep: Callable[[float], float]) -> Schedule:
    """Sigmas [N + 1] as steps; the original's, all or consecutive ones, give exactly the original's steps. In
    any other schedule ``timestep`` gives the network's timestep of a sigma, and nothing is snapped to the
    training table."""
    values = sigmas.float().cpu()
    for steps in range(len(values) - 1, TRAIN_STEPS + 1):  # the complete schedule is tried first
        original = schedule_to_sigmas(steps, sigma_max)
        for first in map(int, (original == values[0]).nonzero()):
            if torch.equal(original[first : first + len(values)], values):
                part = make_schedule(steps).steps[first : first + len(values) - 1]
                return Schedule(tuple(replace(step, index=i) for i, step in enumerate(part)), first)
    alphas = [sigma_to_alpha(float(sigma)) for sigma in values]
    return Schedule(
        tuple(
            Step(index, timestep(float(values[index])), alpha, next_alpha, alpha)
            for index, (alpha, next_alpha) in enumerate(pairwise(alphas))
        )
    )


def sigma_to_alpha(sigma: float) -> float:
    return (1 + sigma**2) ** -0.5
