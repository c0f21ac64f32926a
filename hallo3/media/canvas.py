"""The canvas: a picture fitted to the model's grid, and the way back (facts 10, golden ``image_resize``)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..shapes import VideoShape


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


def fit(picture: Tensor, shape: VideoShape) -> Canvas:
    """A picture [3, h, w] in 0..1 on the model's canvas.

    Square pictures are scaled to the shorter side and stand between bars; all others cover the canvas
    and lose what hangs over.
    """
    if picture.shape[1] == picture.shape[2]:
        side = min(shape.height, shape.width)
        top, left = (shape.height - side) // 2, (shape.width - side) // 2
        pixels = pad_square(picture, shape.height, shape.width)
        rows, columns = slice(top, top + side), slice(left, left + side)
    else:
        pixels = cover(picture, shape.height, shape.width)
        rows, columns = slice(0, shape.height), slice(0, shape.width)
    return Canvas(pixels=(pixels * 2 - 1)[None, :, None], rows=rows, columns=columns)


def cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale (bicubic, antialiased, overshoot kept) until [3, height, width] is covered; cut the middle."""
    size, top, left = cover_size(picture.shape[1], picture.shape[2], height, width)
    scaled = F.interpolate(picture[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]
    return scaled[:, top : top + height, left : left + width]


def cover_size(h: int, w: int, height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """The size to which h x w is scaled, and where the canvas begins on it: (size, top, left)."""
    wider = w / h > width / height
    size = (height, int(w * height / h)) if wider else (int(h * width / w), width)
    return size, (size[0] - height) // 2, (size[1] - width) // 2


def pad_square(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale (bilinear, antialiased) to the shorter side, black bars around, clamped to 0..1."""
    side = min(height, width)
    scaled = F.interpolate(
        picture[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )[0]
    top, left = (height - side) // 2, (width - side) // 2
    bars = (left, width - side - left, top, height - side - top)
    return F.pad(scaled, bars).clamp(0, 1)


def enlarged(frames: Tensor, times: int) -> Tensor:
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
