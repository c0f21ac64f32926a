"""Sizes in pixels, latents and tokens, and their conversion.

The 3D VAE shrinks space by 8 and time by 4, except for the first frame; the transformer groups 2 x 2 latents
of one frame into a token (facts: sizes at a glance, VAE).
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import ShapeError


class PixelBox(NamedTuple):
    """A rectangle in pixels; ``right`` and ``bottom`` are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """0 for a box that is inside out."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def intersect(self, other: PixelBox) -> PixelBox:
        corner, end = map(max, self[:2], other[:2]), map(min, self[2:], other[2:])
        return PixelBox(*corner, *end)

    def overlap(self, other: PixelBox) -> float:
        """Intersection over union, in 0..1."""
        shared = self.intersect(other).area
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0


SPACE_FACTOR = 8
TIME_FACTOR = 4
PATCH = 2


class LatentShape(NamedTuple):
    """Size in latents; ``rows`` and ``columns`` are of tokens."""

    frames: int
    height: int
    width: int

    @property
    def rows(self) -> int:
        return self.height // PATCH

    @property
    def columns(self) -> int:
        return self.width // PATCH

    @property
    def tokens_per_frame(self) -> int:
        """Also the number of reference tokens."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    @property
    def video(self) -> VideoShape:
        return VideoShape(
            1 + (self.frames - 1) * TIME_FACTOR, self.height * SPACE_FACTOR, self.width * SPACE_FACTOR
        )


class VideoShape(NamedTuple):
    """Size of a segment in pixels; use :meth:`checked` for values from outside."""

    frames: int
    height: int
    width: int

    @classmethod
    def checked(cls, frames: int, height: int, width: int) -> VideoShape:
        """A shape that the networks can represent. Raises ``ShapeError``, with the nearest valid values."""
        if frames < 1 or (frames - 1) % TIME_FACTOR:
            below = max(1, (frames - 1) // TIME_FACTOR * TIME_FACTOR + 1)
            raise ShapeError(
                "A segment cannot have this many frames.",
                found=f"{frames} frames",
                expected=f"{TIME_FACTOR}k + 1 frames",
                fix=f"use {below} or {below + TIME_FACTOR}",
            )
        step = SPACE_FACTOR * PATCH
        for name, side in (("height", height), ("width", width)):
            if side < step or side % step:
                below = max(step, side // step * step)
                raise ShapeError(
                    f"The canvas {name} does not fit the model's grid.",
                    found=f"{side} px",
                    expected=f"a multiple of {step} px",
                    fix=f"use {below} or {below + step}",
                )
        return cls(frames, height, width)

    @property
    def latent(self) -> LatentShape:
        return LatentShape(
            latent_frames(self.frames), self.height // SPACE_FACTOR, self.width // SPACE_FACTOR
        )


def latent_frames(frames: int) -> int:
    """1 to 4 frames give 1 latent frame, 5 give 2, 49 give 13 (golden ``vae_encode``)."""
    return 1 + (frames - 1) // TIME_FACTOR


def check_shape(shape: tuple[int, ...], expected: tuple[int | None, ...], what: str) -> None:
    """Raise ``ShapeError`` unless the shape is ``expected`` (None: any size); ``what`` names the tensor."""
    if len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True)):
        return
    sizes = ["any" if size is None else str(size) for size in expected]
    raise ShapeError(
        f"{what} has the wrong shape.",
        found=str(list(shape)),
        expected=f"[{', '.join(sizes)}]",
        fix="pass values made for this model's configuration",
    )
