"""Random numbers as a function of (seed, purpose, segment, step, shape), whatever the order of calls.

A segment rendered alone therefore equals the same segment in sequence, and global generators are neither read
nor changed. Tests pass the original's recorded draws instead.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

MAX_SEED = 2**64 - 1


class Purpose(StrEnum):
    """``MOTION_MASK`` is uniform in [0, 1), all others are standard normal."""

    MOTION_MASK = "motion mask"
    START = "start"
    STEP = "step"
    MOTION_POSTERIOR = "motion posterior"
    IDENTITY_POSTERIOR = "identity posterior"


Noise = Callable[[Purpose, int, int, tuple[int, ...]], Tensor]
"""(purpose, segment, step, shape) -> float32 on the CPU."""


def make_noise(seed: int) -> Noise:
    """Noise of a 64-bit seed.

    A hash of all arguments keys a counter-based generator (Philox, Salmon et al. 2011); torch's CPU generator
    uses only the lower half of a seed.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is not within 0 to 2^64 - 1")

    def noise(purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        generator = make_generator(f"{seed}|{purpose.value}|{segment}|{step}")
        if purpose is Purpose.MOTION_MASK:
            return torch.from_numpy(generator.random(shape, dtype=np.float32))
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    return noise


def make_generator(name: str) -> np.random.Generator:
    """A generator with one stream per name."""
    key = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
