"""Geometry as types: every conversion between pixels, latents and tokens lives here.

The 3D VAE shrinks space by 8 and time by 4, the first frame standing alone; the transformer groups
2 x 2 latents into a token, one latent frame at a time (facts: sizes at a glance, VAE).
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import ShapeError


class PixelBox(NamedTuple):
    """A rectangle in pixels: from ``left`` and ``top`` up to, without, ``right`` and ``bottom``."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Its pixels; 0 for one that is turned inside out."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def common(self, other: PixelBox) -> PixelBox:
        """What two boxes have in common; without area if that is nothing."""
        return PixelBox(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


SPACE_FACTOR = 8
TIME_FACTOR = 4
PATCH = 2


class LatentShape(NamedTuple):
    """Extent of a latent video."""

    frames: int
    height: int
    width: int

    @property
    def rows(self) -> int:
        """Token rows of one latent frame."""
        return self.height // PATCH

    @property
    def columns(self) -> int:
        """Token columns of one latent frame."""
        return self.width // PATCH

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame; also the number of reference tokens."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Tokens of the whole latent video."""
        return self.frames * self.tokens_per_frame

    @property
    def video(self) -> VideoShape:
        """The pixels that decode from this."""
        return VideoShape(
            1 + (self.frames - 1) * TIME_FACTOR, self.height * SPACE_FACTOR, self.width * SPACE_FACTOR
        )


class VideoShape(NamedTuple):
    """Extent of a segment in pixels; construct through :meth:`checked` from outside values."""

    frames: int
    height: int
    width: int

    @classmethod
    def checked(cls, frames: int, height: int, width: int) -> VideoShape:
        """A shape the networks can represent; ``ShapeError`` names the nearest legal values otherwise."""
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
        """The latents that encode this."""
        return LatentShape(
            latent_frames(self.frames), self.height // SPACE_FACTOR, self.width // SPACE_FACTOR
        )


def latent_frames(frames: int) -> int:
    """Latent frames of so many frames: 1 to 4 give 1, 5 gives 2, 49 gives 13 (golden ``vae_encode``)."""
    return 1 + (frames - 1) // TIME_FACTOR


def check_shape(found: tuple[int, ...], wanted: tuple[int | None, ...], what: str) -> None:
    """Refuse a tensor whose shape differs from ``wanted``; ``None`` accepts any extent."""
    if len(found) == len(wanted) and all(w is None or f == w for f, w in zip(found, wanted, strict=True)):
        return
    shown = ["any" if extent is None else str(extent) for extent in wanted]
    raise ShapeError(
        f"{what} has the wrong shape.",
        found=str(list(found)),
        expected=f"[{', '.join(shown)}]",
        fix="pass values made for this model's configuration",
    )
