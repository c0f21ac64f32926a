"""A whole portrait with what is used of it: the crop, bars beside it, and the faces with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import PixelBox
from ..shapes import VideoShape
from .canvas import scaled
from .framing import Crop, extent
from .marks import Marks, Rectangle

CUT_OFF = 0.25
"""Brightness left to what is not used."""
STRIPE = 8
BARS = (0.16, 0.22)
SIDE = 960
"""Pixels of the longer side."""
STRIP = 8
"""Of a picture longer than so many squares, only as much is shown."""
HIDDEN = 0.7
"""How much of a picture the bars hide that lie over it."""
EMPTY = 0.08
"""Brightness where there is neither picture nor canvas."""


def draw_framing(
    picture: Tensor,
    mask: Tensor,
    shape: VideoShape,
    crop: Crop,
    faces: Sequence[PixelBox],
    chosen: int | None,
) -> Tensor:
    """A picture [3, h, w] in 0..1 with a face mask [h, w] and a crop -> [3, H', W'], 960 px the longer side.

    What the canvas does not show is dark. Where the crop is a square the bars are striped, over the picture
    or beside it. Every one of ``faces`` has a box and its number from 1 on, ``faces[chosen]`` in the colour
    of the dashed box round what the reference network sees; all lines have a dark edge, so that they can be
    seen on anything.
    """
    view, canvas, used = _view(crop, *picture.shape[1:]), _canvas(crop, shape), crop.shown(shape)
    board = _Board.around(view.box, canvas)
    pen = Marks(board.painted(view.of(picture), view.box, canvas, used))
    pen.edge(board.on(used))
    seen = extent(mask > 0.5)
    if seen is not None and seen.area < mask.numel():
        pen.dashes(board.on(seen))
    for index, face in sorted(enumerate(faces), key=lambda numbered: numbered[0] == chosen):
        pen.numbered(board.on(face), index + 1, index == chosen)
    return pen.picture()


def stripes(height: int, width: int) -> Tensor:
    """What bars look like: [3, height, width]."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    dark, bright = BARS
    return torch.where(((x + y) // STRIPE) % 2 == 0, dark, bright).expand(3, -1, -1)


def _view(crop: Crop, height: int, width: int) -> Crop:
    """The part of a picture that is shown: of a strip, some squares round the crop."""
    tall = min(height, max(crop.height, STRIP * width))
    wide = min(width, max(crop.width, STRIP * height))
    top = min(max(0, crop.top + (crop.height - tall) // 2), height - tall)
    left = min(max(0, crop.left + (crop.width - wide) // 2), width - wide)
    return Crop(top=top, left=left, height=tall, width=wide)


def _canvas(crop: Crop, shape: VideoShape) -> PixelBox:
    """The canvas on the portrait; the bars of a square may leave it."""
    if crop.height != crop.width:
        return crop.shown(shape)
    left, top, right, bottom = crop.box
    scale = crop.height / min(shape.height, shape.width)
    across, down = (shape.width * scale - crop.width) / 2, (shape.height * scale - crop.height) / 2
    return PixelBox(left - across, top - down, right + across, bottom + down)


class _Board(NamedTuple):
    """What is drawn on, ``scale`` times as large as the portrait's part whose corner is ``left``, ``top``."""

    left: float
    top: float
    scale: float
    height: int
    width: int

    @classmethod
    def around(cls, view: PixelBox, canvas: PixelBox) -> _Board:
        left, top = min(view.left, canvas.left), min(view.top, canvas.top)
        wide, tall = max(view.right, canvas.right) - left, max(view.bottom, canvas.bottom) - top
        scale = SIDE / max(wide, tall)
        return cls(left, top, scale, max(1, round(tall * scale)), max(1, round(wide * scale)))

    def on(self, box: PixelBox) -> Rectangle:
        left, right = (round((edge - self.left) * self.scale) for edge in (box.left, box.right))
        top, bottom = (round((edge - self.top) * self.scale) for edge in (box.top, box.bottom))
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def painted(self, picture: Tensor, view: PixelBox, canvas: PixelBox, used: PixelBox) -> Tensor:
        """The picture at ``view``, dark but for what is ``used``, with bars over the rest of the canvas."""
        bright = torch.full((3, self.height, self.width), EMPTY / CUT_OFF)
        left, top, right, bottom = self.on(view)
        bright[:, top:bottom, left:right] = scaled(
            picture.float(), (bottom - top, right - left), "bilinear"
        ).clamp(0, 1)
        shown = bright * CUT_OFF
        hidden = torch.ones_like(shown[0])
        hidden[top:bottom, left:right] = HIDDEN
        left, top, right, bottom = self.on(canvas)
        place = slice(max(0, top), bottom), slice(max(0, left), right)
        bars = shown[:, *place]
        bars.lerp_(stripes(*bars.shape[1:]), hidden[place].expand_as(bars))
        left, top, right, bottom = self.on(used)
        shown[:, top:bottom, left:right] = bright[:, top:bottom, left:right]
        return shown
