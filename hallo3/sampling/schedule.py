"""The zero-terminal-SNR noise schedule, in the original's order of roundings (facts 6 and 16).

``alpha`` below is sqrt(alpha-bar): the signal's share, 0 for pure noise, 1 for none. Everything is
float32 scalars on the CPU; what leaves is Python floats, so a step never waits for a device.

Square roots are NumPy's, and logarithms and exponentials are taken in float64 and rounded once: torch's
float32 versions on a CPU differ by an ulp between processors (facts 17).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


@dataclass(frozen=True, slots=True)
class Step:
    """One sampling step from ``alpha`` to ``next_alpha``.

    The network is told ``timestep``; the denoiser scales by ``table_alpha``, the entry of the training
    table nearest to ``alpha``. The two need not belong together (golden ``schedule``).
    """

    index: int
    timestep: float
    alpha: float
    next_alpha: float
    table_alpha: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a run, from pure noise to the clean latents."""

    steps: tuple[Step, ...]
    first: int = 0
    """Where the first step stands in the schedule that these were cut from."""

    @property
    def timesteps(self) -> Tensor:
        """What the network is told, [N] float32."""
        return torch.tensor([step.timestep for step in self.steps], dtype=torch.float32)


def make_schedule(steps: int) -> Schedule:
    """The original's schedule for 1 to 1000 steps: the picked entries are rescaled among themselves.

    Raises ``InputError`` outside that range. The original gives NaN for 1 step and crashes for 1000.
    """
    if not 1 <= steps <= TRAIN_STEPS:
        raise InputError(
            "This number of steps cannot be sampled.",
            found=f"{steps} steps",
            expected=f"1 to {TRAIN_STEPS}",
            fix="choose a number in that range; the released model was made for 50",
        )
    table = denoiser_table()
    timesteps, alphas = select_alphas(steps)
    nearest = (table[None] - alphas[:-1, None]).abs().argmin(dim=1)

    def step(index: int) -> Step:
        return Step(
            index=index,
            timestep=timesteps[index],
            alpha=float(alphas[index]),
            next_alpha=float(alphas[index + 1]),
            table_alpha=float(table[nearest[index]]),
        )

    return Schedule(tuple(step(index) for index in range(steps)))


def select_alphas(steps: int) -> tuple[list[int], Tensor]:
    """The timesteps of so many steps, and the alphas [steps + 1] they start from, the last of which is 1."""
    timesteps: list[int] = np.linspace(TRAIN_STEPS - 1, 0, steps, endpoint=False).astype(int).tolist()
    picked = _training_alphas()[timesteps[::-1]]
    return timesteps, torch.cat((rescale_zero_terminal(picked).flip(0), torch.ones(1)))


def denoiser_table() -> Tensor:
    """The training alphas [1000], rescaled over all of them: what the denoiser snaps to."""
    return rescale_zero_terminal(_training_alphas())


def rescale_zero_terminal(alphas: Tensor) -> Tensor:
    """Alphas of increasing noise, shifted and scaled so that the last is 0 and the first stays."""
    if len(alphas) == 1:
        return torch.zeros(1)
    first, last = alphas[0], alphas[-1]
    return (alphas - last) * (first / (first - last))


def _training_alphas() -> Tensor:
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64)
    squares = torch.cumprod(1.0 - roots**2, dim=0).to(torch.float32)
    return torch.from_numpy(np.sqrt(squares.numpy()))  # torch's square root rounds differently per processor


def schedule_to_sigmas(steps: int, sigma_max: float) -> Tensor:
    """The original's schedule as sigmas [steps + 1], float32, falling to 0.

    It begins with pure noise, whose sigma is infinite: ``sigma_max`` stands for it.
    """
    alphas = select_alphas(steps)[1].double()
    sigmas = torch.from_numpy(np.sqrt((1 - alphas**2).numpy())) / alphas
    sigmas[alphas == 0] = sigma_max
    return sigmas.float()


def sigmas_to_schedule(sigmas: Tensor, sigma_max: float, timestep: Callable[[float], float]) -> Schedule:
    """Sigmas [N + 1] as steps; the original's own, whole or a part, give the original's steps exactly.

    Of any other schedule the network is told what ``timestep`` says of each sigma, and nothing is snapped
    to the training table.
    """
    values = sigmas.float().cpu()
    found = _part_of_the_original(values, sigma_max)
    if found is not None:
        return found
    ends = [sigma_to_alpha(float(sigma)) for sigma in values]

    def step(index: int) -> Step:
        alpha, following = ends[index], ends[index + 1]
        told = timestep(float(values[index]))
        return Step(index=index, timestep=told, alpha=alpha, next_alpha=following, table_alpha=alpha)

    return Schedule(tuple(step(index) for index in range(len(values) - 1)))


def _part_of_the_original(values: Tensor, sigma_max: float) -> Schedule | None:
    """The steps that these sigmas were cut from; the whole schedule is looked at first."""
    for steps in range(len(values) - 1, TRAIN_STEPS + 1):
        whole = schedule_to_sigmas(steps, sigma_max)
        for place in (whole == values[0]).nonzero():
            first = int(place)
            if torch.equal(whole[first : first + len(values)], values):
                cut = make_schedule(steps).steps[first : first + len(values) - 1]
                return Schedule(tuple(replace(step, index=i) for i, step in enumerate(cut)), first)
    return None


def sigma_to_alpha(sigma: float) -> float:
    """The signal's share under noise of this size."""
    return (1 + sigma**2) ** -0.5
