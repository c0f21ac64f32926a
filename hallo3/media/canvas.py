"""The canvas: a picture fitted to the model's grid, and the way back (facts 10, golden ``image_resize``)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..geometry import VideoShape

LONGEST = 5
"""Canvases that a strip may be long; what is left out would be cut off either way."""
BAND = 128
"""Rows that are masked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A fitted picture: ``pixels`` [1, 3, 1, H, W] in -1..1 and the part of it that is picture."""

    pixels: Tensor
    rows: slice
    columns: slice

    @property
    def height(self) -> int:
        """Rows of picture after :meth:`uncrop`."""
        return self.rows.stop - self.rows.start

    @property
    def width(self) -> int:
        """Columns of picture after :meth:`uncrop`."""
        return self.columns.stop - self.columns.start

    def uncrop(self, frames: Tensor) -> Tensor:
        """Frames [..., H, W] without the bars that fitting added."""
        return frames[..., self.rows, self.columns]


def fit(picture: Tensor, shape: VideoShape, *, mask: Tensor | None = None) -> Canvas:
    """A picture [3, h, w] in 0..1 on the model's canvas.

    Square pictures are scaled to the shorter side and stand between bars; all others cover the canvas
    and lose what hangs over. With a ``mask`` [h, w], as ``fit(picture * mask, shape)`` without that copy.
    """
    if picture.shape[1] == picture.shape[2]:
        side = min(shape.height, shape.width)
        top, left = (shape.height - side) // 2, (shape.width - side) // 2
        pixels = pad_square(picture, shape.height, shape.width, mask)
        rows, columns = slice(top, top + side), slice(left, left + side)
    else:
        pixels = cover(picture, shape.height, shape.width, mask)
        rows, columns = slice(0, shape.height), slice(0, shape.width)
    return Canvas(pixels=(pixels * 2 - 1)[None, :, None], rows=rows, columns=columns)


def cover(picture: Tensor, height: int, width: int, mask: Tensor | None = None) -> Tensor:
    """Scale (bicubic, antialiased, overshoot kept) until [3, height, width] is covered; cut the middle."""
    picture = shrink(picture, height / width)
    mask = None if mask is None else shrink(mask, height / width)
    size, top, left = cover_size(picture.shape[1], picture.shape[2], height, width)
    return resize(picture, size, "bicubic", mask)[:, top : top + height, left : left + width]


def cover_size(h: int, w: int, height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """The size to which h x w is scaled, and where the canvas begins on it: (size, top, left)."""
    wider = w / h > width / height
    size = (height, int(w * height / h)) if wider else (int(h * width / w), width)
    return size, (size[0] - height) // 2, (size[1] - width) // 2


def shrink(picture: Tensor, ratio: float) -> Tensor:
    """The middle of a strip [..., h, w]: no more than ``LONGEST`` canvases, of height / width ``ratio``, side
    by side. Without this, a strip that covers the canvas could become gigabytes."""
    h, w = picture.shape[-2:]
    tall, wide = min(h, int(LONGEST * ratio * w)), min(w, int(LONGEST * h / ratio))
    top, left = (h - tall) // 2, (w - wide) // 2
    return picture[..., top : top + tall, left : left + wide]


def pad_square(picture: Tensor, height: int, width: int, mask: Tensor | None = None) -> Tensor:
    """Scale (bilinear, antialiased) to the shorter side, black bars around, clamped to 0..1."""
    side = min(height, width)
    fitted = resize(picture, (side, side), "bilinear", mask)
    top, left = (height - side) // 2, (width - side) // 2
    bars = (left, width - side - left, top, height - side - top)
    return F.pad(fitted, bars).clamp(0, 1)


def resize(picture: Tensor, size: tuple[int, int], mode: str, mask: Tensor | None = None) -> Tensor:
    """A picture [C, h, w], times a mask [h, w] if there is one, scaled to a size with antialiasing.

    Scaling goes across first and down then; so the mask can be applied to a band of rows at a time, to the
    same bits.
    """
    if mask is not None:
        across = picture.new_empty(*picture.shape[:2], size[1])
        for top in range(0, picture.shape[1], BAND):
            rows = slice(top, top + BAND)
            seen = picture[:, rows] * mask[rows].to(picture)
            across[:, rows] = _scaled(seen, (seen.shape[1], size[1]), mode)
        picture = across
    return _scaled(picture, size, mode)


def _scaled(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(picture[None], size=size, mode=mode, antialias=True, align_corners=False)[0]


def enlarge(frames: Tensor, times: int) -> Tensor:
    """Frames [F, 3, H, W] in 0..1, so many times as high and wide (bicubic, overshoot cut off)."""
    if times == 1:
        return frames
    size = times * frames.shape[2], times * frames.shape[3]
    return F.interpolate(frames.float(), size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def drop_pixels(frames: Tensor, draw: Tensor, rate: float) -> Tensor:
    """Motion frames [B, 3, F, H, W] with a random share of pixels set to mid grey (0).

    One uniform draw [H, W] serves all frames and channels and is compared in the frames' type, as the
    original does (golden ``motion_mask``).
    """
    return frames * (draw.to(frames) > rate)
