"""A whole portrait with what is used of it: the crop, bars beside it, and the faces with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ..geometry import PixelBox, VideoShape
from .canvas import cover_size, pad_square, resize, shrink
from .framing import Crop, extent

BOX = (1.0, 0.75, 0.1)
"""The colour of the chosen face, and of what the reference network sees."""
LETTERS, MARGIN = 26, 6
"""Pixels of a number's height, and round it."""
THICK, THIN, DASH = 4, 2, 12
PALE, DARK = (235, 235, 235), (16, 16, 16)

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture."""


class Marks:
    """Draws on a picture [3, h, w] in 0..1."""

    def __init__(self, picture: Tensor) -> None:
        pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0)
        self.image = Image.fromarray(pixels.contiguous().numpy())
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(LETTERS)
        self.accent: Colour = (round(BOX[0] * 255), round(BOX[1] * 255), round(BOX[2] * 255))

    def edge(self, box: Rectangle) -> None:
        """A thin pale box."""
        self._frame(box, PALE, THIN)

    def _frame(self, box: Rectangle, colour: Colour, line: int) -> None:
        """Just inside of a box, between two dark lines."""
        for inset, ink, width in ((-1, DARK, line + 2), (0, colour, line)):
            left, top, right, bottom = box[0] + inset, box[1] + inset, box[2] - 1 - inset, box[3] - 1 - inset
            self.draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=ink, width=width)

    def dashes(self, box: Rectangle) -> None:
        """A box of dashes in the accent colour on a dark line."""
        left, top, right, bottom = box[0], box[1], box[2] - THIN, box[3] - THIN
        self._frame(box, DARK, THIN)
        for x in range(left, right + 1, 2 * DASH):
            for y in (top, bottom):
                self._dot(x, y, min(x + DASH, right + THIN), y + THIN)
        for y in range(top, bottom + 1, 2 * DASH):
            for x in (left, right):
                self._dot(x, y, x + THIN, min(y + DASH, bottom + THIN))

    def _dot(self, left: int, top: int, right: int, bottom: int) -> None:
        self.draw.rectangle((left, top, right - 1, bottom - 1), fill=self.accent)

    def numbered(self, box: Rectangle, number: int, chosen: bool) -> None:
        """A box with a number on a small plate above it or, at the picture's edge, inside of it."""
        colour = self.accent if chosen else PALE
        self._frame(box, colour, THICK if chosen else THIN)
        wide = round(self.font.getlength(str(number))) + 2 * MARGIN
        tall = LETTERS + MARGIN
        left = min(max(0, box[0]), self.image.width - wide)
        top = box[1] - tall if box[1] >= tall else max(0, box[1])
        plate = (left, top, left + wide, top + tall)
        self._frame((plate[0] - 1, plate[1] - 1, plate[2] + 1, plate[3] + 1), DARK, 1)
        self.draw.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=colour)
        middle = (plate[0] + plate[2]) / 2, (plate[1] + plate[3]) / 2
        self.draw.text(middle, str(number), DARK, self.font, "mm")

    def picture(self) -> Tensor:
        """What was drawn on, [3, h, w] in 0..1."""
        return torch.from_numpy(np.array(self.image)).permute(2, 0, 1).float() / 255


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
        bright[:, top:bottom, left:right] = resize(
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


READABLE = 480
"""Rows that a picture to look at should have."""


def draw_portrait_preview(
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
    picture, mask = shrink(picture, height / width), shrink(mask, height / width)
    h, w = picture.shape[1:]
    if h == w:
        shown = pad_square(picture, height, width)
        seen = pad_square(mask[None].to(picture), height, width)[0]
        bars = pad_square(torch.ones(1, height, height), height, width) < 0.5
        shown = torch.where(bars, stripes(height, width).to(picture), shown)
    else:
        size, top, left = cover_size(h, w, height, width)
        shown = resize(picture, size, "bilinear").clamp(0, 1)
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
