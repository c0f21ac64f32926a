"""A picture of what will be used of a portrait: what is cut off, what is added, where the face is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import VideoShape
from .canvas import cover_size, pad_square

CUT_OFF = 0.25
"""Brightness left to what hangs over the canvas."""
STRIPE = 8
LONGEST = 5
"""Canvases that a strip may be long; what is left out is cut off either way."""
READABLE = 480
"""Rows that a picture to look at should have."""
BARS = (0.16, 0.22)
BOX = (1.0, 0.75, 0.1)


def overview(picture: Tensor, mask: Tensor, shape: VideoShape) -> Tensor:
    """[3, h, w] in 0..1 and the face mask [h, w] -> [3, H', W'], at the canvas' scale or, where that is
    small, a multiple of it.

    What a non-square picture loses is dark, the bars that a square one gets are striped, and a box is
    drawn round what the reference network sees.
    """
    scale = max(1, READABLE // shape.height)
    height, width = scale * shape.height, scale * shape.width
    picture, mask = _shortened(picture, height / width), _shortened(mask[None], height / width)[0]
    h, w = picture.shape[1:]
    if h == w:
        shown = pad_square(picture, height, width)
        seen = pad_square(mask[None].to(picture).expand(3, -1, -1), height, width)[0]
        bars = pad_square(torch.ones_like(picture), height, width) < 0.5
        shown = torch.where(bars, _stripes(height, width).to(picture), shown)
    else:
        size, top, left = cover_size(h, w, height, width)
        shown = F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        seen = F.interpolate(mask[None, None].to(picture), size=size, mode="nearest")[0, 0]
        light = torch.full(size, CUT_OFF)
        light[top : top + height, left : left + width] = 1
        shown = shown * light.to(picture)
    return _boxed(shown, seen > 0.5)


def _shortened(picture: Tensor, ratio: float) -> Tensor:
    """The middle of a strip: no more than ``LONGEST`` canvases side by side."""
    h, w = picture.shape[1:]
    tall, wide = min(h, int(LONGEST * ratio * w)), min(w, int(LONGEST * h / ratio))
    top, left = (h - tall) // 2, (w - wide) // 2
    return picture[:, top : top + tall, left : left + wide]


def _stripes(height: int, width: int) -> Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    dark, bright = BARS
    return torch.where(((x + y) // STRIPE) % 2 == 0, dark, bright).expand(3, -1, -1)


def _boxed(picture: Tensor, seen: Tensor) -> Tensor:
    if not bool(seen.any()):
        return picture
    rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    line = max(1, min(picture.shape[1:]) // 160)
    colour = torch.tensor(BOX).to(picture)[:, None, None]
    framed = picture.clone()
    framed[:, top:bottom, left:right] = colour
    framed[:, top + line : bottom - line, left + line : right - line] = picture[
        :, top + line : bottom - line, left + line : right - line
    ]
    return framed
