"""Every random number of a run, by name: purpose, segment and step decide it, not the order of asking.

So a segment rendered alone equals the same segment in sequence, and nothing outside (global generators,
earlier runs) is read or changed. Tests hand in the original's recorded draws instead.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

SEEDS = 2**64


class Purpose(StrEnum):
    """What a draw is for; ``MOTION_MASK`` is uniform in [0, 1), all others are standard normal."""

    MOTION_MASK = "motion mask"
    START = "start"
    STEP = "step"
    MOTION_POSTERIOR = "motion posterior"
    IDENTITY_POSTERIOR = "identity posterior"


Noise = Callable[[Purpose, int, int, tuple[int, ...]], Tensor]
"""(purpose, segment, step, shape) -> float32 on the CPU; the same question has the same answer."""


def make_noise(seed: int) -> Noise:
    """Noise derived from a seed of 64 bits, all of which count.

    A hash of the whole question keys a counter-based generator (Philox, Salmon et al. 2011); torch's CPU
    generator would use only the seed's lower half. Raises ``InputError`` outside 0 .. 2^64 - 1.
    """
    if not 0 <= seed < SEEDS:
        raise InputError(
            "This seed cannot be used.",
            found=str(seed),
            expected="a whole number from 0 to 2^64 - 1",
            fix="choose a seed in that range",
        )

    def noise(purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        generator = make_generator(f"{seed}|{purpose.value}|{segment}|{step}")
        if purpose is Purpose.MOTION_MASK:
            return torch.from_numpy(generator.random(shape, dtype=np.float32))
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    return noise


def make_generator(name: str) -> np.random.Generator:
    """A generator whose stream is decided by a name."""
    key = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
