"""A picture of what will be used of a portrait: what is cut off, what is added, where the faces are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..boxes import PixelBox
from ..shapes import VideoShape
from .canvas import cover_size, pad_square, scaled, shortened
from .framing import Crop, extent
from .framing_picture import CUT_OFF, draw_framing, stripes
from .marks import BOX

READABLE = 480
"""Rows that a picture to look at should have."""


def overview(
    picture: Tensor,
    mask: Tensor,
    shape: VideoShape,
    *,
    crop: Crop | None = None,
    faces: Sequence[PixelBox] = (),
    chosen: int | None = None,
) -> Tensor:
    """[3, h, w] in 0..1 and the face mask [h, w] -> [3, H', W'] in 0..1.

    What is not used is dark, bars beside a square are striped, and a box is drawn round what the reference
    network sees. With a ``crop`` of the picture or ``faces`` on it, from left to right, the whole picture is
    shown as :func:`draw_framing` does, ``faces[chosen]`` in a colour of its own. Without, it is shown at the
    canvas' scale or, where that is small, a multiple of it.
    """
    if crop is not None or faces:
        crop = crop or Crop.whole(*picture.shape[1:])
        return draw_framing(picture, mask, shape, crop, faces, chosen)
    scale = max(1, READABLE // shape.height)
    height, width = scale * shape.height, scale * shape.width
    picture, mask = shortened(picture, height / width), shortened(mask, height / width)
    h, w = picture.shape[1:]
    if h == w:
        shown = pad_square(picture, height, width)
        seen = pad_square(mask[None].to(picture), height, width)[0]
        bars = pad_square(torch.ones(1, height, height), height, width) < 0.5
        shown = torch.where(bars, stripes(height, width).to(picture), shown)
    else:
        size, top, left = cover_size(h, w, height, width)
        shown = scaled(picture, size, "bilinear").clamp(0, 1)
        seen = F.interpolate(mask[None, None].to(picture), size=size, mode="nearest")[0, 0]
        light = torch.full(size, CUT_OFF)
        light[top : top + height, left : left + width] = 1
        shown = shown * light.to(picture)
    return _boxed(shown, seen > 0.5)


def _boxed(picture: Tensor, seen: Tensor) -> Tensor:
    box = extent(seen)
    if box is None:
        return picture
    left, top, right, bottom = (int(edge) for edge in box)
    line = max(1, min(picture.shape[1:]) // 160)
    colour = torch.tensor(BOX).to(picture)[:, None, None]
    framed = picture.clone()
    framed[:, top:bottom, left:right] = colour
    framed[:, top + line : bottom - line, left + line : right - line] = picture[
        :, top + line : bottom - line, left + line : right - line
    ]
    return framed
