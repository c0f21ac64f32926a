"""How a decode is cut to size: strips of rows, and where frames wait that convolutions look back at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..errors import InputError
from ..geometry import TIME_FACTOR, LatentShape

CACHES = ("device", "host")
LOOK_BACK = 2
"""Frames before a slice that a causal convolution reads."""
LARGEST = 2**30
"""Elements a convolution may be given at once; above, the index arithmetic of convolutions on a GPU ends."""


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What a decode may hold at once. Frames differ by rounding alone.

    ``strips``: pieces that a picture's rows are convolved in; 1 is the whole height. ``caches``: where the
    last two frames before every convolution wait for the next slice, on the "device" or in the "host"'s
    memory. Raises ``InputError``.
    """

    strips: int = 1
    caches: str = "device"

    def __post_init__(self) -> None:
        if self.strips < 1:
            raise InputError(
                "A picture cannot be decoded in this many strips.",
                found=f"{self.strips} strips",
                expected="1 or more",
                fix="use 1 for the whole height, more for less memory",
            )
        if self.caches not in CACHES:
            raise InputError(
                "The frames between two slices cannot be kept there.",
                found=f'"{self.caches}"',
                expected=" or ".join(f'"{place}"' for place in CACHES),
                fix='use "device", or "host" for less memory on the device',
            )


def cuts(latent_rows: int, strips: int, scale: int) -> list[tuple[int, int]]:
    """First and last + 1 row of every strip of a picture that is ``scale`` times its latents.

    All strips are whole latent rows, as equal as can be, and never more than there are latent rows.
    """
    count = min(strips, latent_rows)
    edges = [scale * (latent_rows * index // count) for index in range(count + 1)]
    return list(pairwise(edges))


def least_strips(channels: int, slice_shape: LatentShape) -> int:
    """Strips without which the largest convolution would be given more than :data:`LARGEST` elements.

    ``channels`` are those that enter the last block, ``slice_shape`` is the longest slice's.
    """
    whole, height, width = slice_shape.video
    frames = whole if slice_shape.frames % 2 else TIME_FACTOR * slice_shape.frames
    return -(-channels * (LOOK_BACK + frames) * height * width // LARGEST)
