"""The canvas: a picture fitted to the model's grid (facts 10, golden ``image_resize``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry import VideoShape

MAX_STRIP = 5
"""Length of a strip in canvases; what is beyond would be cropped either way."""
ASPECT_TOLERANCE = 0.01
"""Relative difference of aspects that count as equal."""
BAND_ROWS = 128
"""Rows that are masked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A fitted picture: ``pixels`` [1, 3, 1, H, W] in -1..1, and the part without bars."""

    pixels: Tensor
    rows: slice
    columns: slice

    @property
    def height(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start

    def uncrop(self, frames: Tensor) -> Tensor:
        """Frames [..., H, W] without the bars that fitting added."""
        return frames[..., self.rows, self.columns]


def keeps_whole(height: int, width: int, shape: VideoShape, framing: str) -> bool:
    """Whether a portrait is used whole wherever its face is: with "original", and with "auto" if it is square
    or has the canvas' aspect."""
    fits = abs(width * shape.height / (height * shape.width) - 1) <= ASPECT_TOLERANCE
    return framing == "original" or (framing == "auto" and (height == width or fits))


def fit(picture: Tensor, shape: VideoShape, *, mask: Tensor | None = None) -> Canvas:
    """Fit a picture [3, h, w] in 0..1 to the model's canvas. Square pictures are scaled to the shorter side,
    between bars; all others cover the canvas and are cropped. With a ``mask`` [h, w], the same as
    ``fit(picture * mask, shape)`` without that copy."""
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
    """Scale (bicubic, antialiased, unclamped) to cover [3, height, width], and crop the middle."""
    picture = _trim_strip(picture, height / width)
    mask = None if mask is None else _trim_strip(mask, height / width)
    size, top, left = cover_size(picture.shape[1], picture.shape[2], height, width)
    return resize(picture, size, "bicubic", mask)[:, top : top + height, left : left + width]


def cover_size(h: int, w: int, height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """The size to which h x w is scaled, and the canvas' top and left on it."""
    is_wider = w / h > width / height
    size = (height, int(w * height / h)) if is_wider else (int(h * width / w), width)
    return size, (size[0] - height) // 2, (size[1] - width) // 2


def _trim_strip(picture: Tensor, ratio: float) -> Tensor:
    """The middle of a strip [..., h, w]: at most ``MAX_STRIP`` canvases of height / width ``ratio``, side by
    side. Without this, a strip that covers the canvas could become gigabytes."""
    h, w = picture.shape[-2:]
    tall, wide = min(h, int(MAX_STRIP * ratio * w)), min(w, int(MAX_STRIP * h / ratio))
    top, left = (h - tall) // 2, (w - wide) // 2
    return picture[..., top : top + tall, left : left + wide]


def pad_square(picture: Tensor, height: int, width: int, mask: Tensor | None = None) -> Tensor:
    """Scale (bilinear, antialiased) to the shorter side and add black bars; clamped to 0..1."""
    side = min(height, width)
    fitted = resize(picture, (side, side), "bilinear", mask)
    top, left = (height - side) // 2, (width - side) // 2
    bars = (left, width - side - left, top, height - side - top)
    return F.pad(fitted, bars).clamp(0, 1)


def resize(picture: Tensor, size: tuple[int, int], mode: str, mask: Tensor | None = None) -> Tensor:
    """Scale a picture [C, h, w], times a mask [h, w] if given, with antialiasing. Torch scales across before
    down, so the mask can be applied to a band of rows at a time, bit for bit."""
    if mask is not None:
        narrow = picture.new_empty(*picture.shape[:2], size[1])
        for top in range(0, picture.shape[1], BAND_ROWS):
            rows = slice(top, top + BAND_ROWS)
            band = picture[:, rows] * mask[rows].to(picture)
            narrow[:, rows] = _scale(band, (band.shape[1], size[1]), mode)
        picture = narrow
    return _scale(picture, size, mode)


def _scale(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(picture[None], size=size, mode=mode, antialias=True, align_corners=False)[0]


def enlarge(frames: Tensor, times: int) -> Tensor:
    """Scale frames [F, 3, H, W] in 0..1 up by a whole factor (bicubic, clamped)."""
    if times == 1:
        return frames
    size = times * frames.shape[2], times * frames.shape[3]
    return F.interpolate(frames.float(), size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def drop_pixels(frames: Tensor, draw: Tensor, rate: float) -> Tensor:
    """Set a random share of motion frames' [B, 3, F, H, W] pixels to mid grey (0), by one uniform draw [H,
    W], compared in the frames' type as in the original (golden ``motion_mask``)."""
    return frames * (draw.to(frames) > rate)


def fade_in(frames: Tensor, still: Tensor, count: int) -> Tensor:
    """Frames [F, 3, H, W] whose first ``count`` fade from a still picture [3, H, W] to them."""
    count = min(count, len(frames))
    share = torch.arange(1, count + 1, dtype=frames.dtype)[:, None, None, None] / (count + 1)
    return torch.cat(
        (torch.lerp(still.to(frames).expand_as(frames[:count]), frames[:count], share), frames[count:])
    )
