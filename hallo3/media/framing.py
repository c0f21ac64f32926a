"""Framing: which part of a portrait is used, so that the face sits where it does in ordinary portraits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from ..geometry import PixelBox, VideoShape
from .canvas import cover_size

FRAMINGS = ("auto", "original", "face")
"""How a portrait is cropped: as it seems best, as the original does it, always round the face."""
FACE = 0.45
"""A face's height in heights of the crop. The original's portraits have 0.34 to 0.64, 0.44 in the mean."""
FACE_WIDTH = 0.6
"""A face's width in widths of the crop, at most, where the crop is narrow."""
CENTRE = 0.44
"""Where a face's middle is, from the top of the crop: its eyes are then at 0.4, its hair is inside."""
HEADROOM = 0.36
"""Room for hair and some air above a face, in heights of the face."""
ABOVE = 0.6
"""Of what a face leaves of the crop's height, at most so much is above it where there is little."""
CHIN = 0.06
"""Room under the chin of a face that is taller than the crop, in heights of the crop: no soft edge on it."""
TIGHT = 0.55
"""A face's height in heights of the crop, from which a square is taken if it is roomier."""
LIKE_CANVAS = 0.01
"""How far an aspect may be from the canvas' to be like it."""
EVERYTHING = 0.98
"""A face with this share of the picture says nothing of where the face is."""
MASK_RATIO = 1.2
"""The original's mask is so many times as wide and as high as the face (facts 10)."""
SMALLEST = 64
"""Pixels that a crop should have a side: what a portrait must have."""
FINE = 32
"""A crop of so many steps of the canvas' aspect has it exactly; a lower one to half a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a portrait, in whole pixels of the portrait; at least one each way."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Crop:
        """All of a portrait."""
        return cls(top=0, left=0, height=height, width=width)

    @property
    def box(self) -> PixelBox:
        """Its edges."""
        return PixelBox(self.left, self.top, self.left + self.width, self.top + self.height)

    def of(self, picture: Tensor) -> Tensor:
        """This part of a picture or a mask [..., h, w]: a view."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def shown(self, shape: VideoShape) -> PixelBox:
        """What the canvas really shows of the portrait: ``fit`` covers with anything but a square."""
        if self.height == self.width:
            return self.box
        (rows, columns), top, left = cover_size(self.height, self.width, shape.height, shape.width)
        tall, wide = self.height / rows, self.width / columns
        return PixelBox(
            self.left + left * wide,
            self.top + top * tall,
            self.left + (left + shape.width) * wide,
            self.top + (top + shape.height) * tall,
        )


def plan_crop(
    height: int, width: int, face: PixelBox | None, shape: VideoShape, framing: str = "auto"
) -> Crop:
    """The part of a portrait of height x width that is fitted to the canvas.

    ``face`` is a face without hair, from the forehead to the chin, in pixels; what of it lies outside the
    portrait is left out. "original": everything, so that ``fit`` pads a square and cuts the middle out of
    all others. "face": a crop of the canvas' aspect, or a square where that is roomier and the other would
    be tight, with the face at its place (decision 012). "auto": everything where the portrait is square or
    like the canvas, or nothing is known of the face; otherwise as "face". Raises ``InputError`` for another
    framing, and for "face" without a face.
    """
    if framing not in FRAMINGS:
        raise InputError(
            "There is no such framing.",
            found=repr(framing),
            expected=", ".join(FRAMINGS),
            fix="choose one of these",
        )
    whole = Crop.whole(height, width)
    seen = None if face is None else _visible(face, height, width)
    if keeps_whole(height, width, shape, framing):
        return whole
    if framing == "auto" and (seen is None or seen.area >= EVERYTHING * whole.box.area):
        return whole
    if seen is None:
        raise InputError(
            "There is no face to frame.",
            found="no face on the portrait" if face is None else "a face outside of the portrait",
            expected="a portrait whose face is known",
            fix="choose another framing, or say where the face is",
        )
    return _placed(seen, _size(seen, whole, shape), whole)


def keeps_whole(height: int, width: int, shape: VideoShape, framing: str) -> bool:
    """Whether a portrait is used whole wherever its face is: with "original", and with "auto" if it is square
    or has the canvas' aspect."""
    like = abs(width * shape.height / (height * shape.width) - 1) <= LIKE_CANVAS
    return framing == "original" or (framing == "auto" and (height == width or like))


def face_box(mask: Tensor) -> PixelBox | None:
    """The box of the face that a mask [h, w] was made for, which is smaller than the mask's.

    None for an empty mask, or one that covers (nearly) the whole picture: nothing is known of the face then.
    """
    box = mask_extent(mask > 0.5)
    if box is None or box.area >= EVERYTHING * mask.numel():
        return None
    left, top, right, bottom = box
    across, down = (right - left) / MASK_RATIO / 2, (bottom - top) / MASK_RATIO / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return PixelBox(x - across, y - down, x + across, y + down)


def mask_extent(seen: Tensor) -> PixelBox | None:
    """The box around all that is true in [h, w]; None if nothing is."""
    rows, columns = (seen.any(dim=dim).nonzero() for dim in (1, 0))
    if not len(rows):
        return None
    return PixelBox(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _visible(face: PixelBox, height: int, width: int) -> PixelBox | None:
    """The face inside of the picture, in whole pixels."""
    inside = face.common(PixelBox(0, 0, width, height))
    if not all(math.isfinite(edge) for edge in inside) or inside.area <= 0:
        return None
    return PixelBox(
        math.floor(inside.left), math.floor(inside.top), math.ceil(inside.right), math.ceil(inside.bottom)
    )


def _size(face: PixelBox, whole: Crop, shape: VideoShape) -> tuple[int, int]:
    """Height and width of the crop: the canvas' aspect unless that is tight and a square less so."""
    canvas = _size_of(face, whole, shape.height, shape.width)
    square = _size_of(face, whole, 1, 1)
    tight = _tightness(face, canvas)
    return square if tight > 1 and _tightness(face, square) < tight else canvas


def _tightness(face: PixelBox, size: tuple[int, int]) -> float:
    """Above 1: the face has less room than it should."""
    height, width = size
    tall, wide = (face.bottom - face.top) / height, (face.right - face.left) / width
    return max(tall / TIGHT, wide / FACE_WIDTH * FACE / TIGHT)


def _size_of(face: PixelBox, whole: Crop, rows: int, columns: int) -> tuple[int, int]:
    """The size in which the face has its share, or the largest there is, of the aspect columns : rows."""
    aspect = columns / rows
    wanted = max((face.bottom - face.top) / FACE, (face.right - face.left) / FACE_WIDTH / aspect)
    wanted = max(wanted, SMALLEST, SMALLEST / aspect)
    height = max(1, math.floor(min(wanted, whole.height, whole.width / aspect)))
    step = rows // math.gcd(rows, columns)
    if height >= FINE * step:
        height -= height % step
    return height, max(1, min(whole.width, round(height * aspect)))


def _placed(face: PixelBox, size: tuple[int, int], whole: Crop) -> Crop:
    """A crop of a size, inside of the picture, the face inside of it wherever that can be.

    Of a face that is taller than the crop, the chin is kept rather than the forehead: a mouth moves.
    """
    height, width = size
    tall = face.bottom - face.top
    above = max(CENTRE * height - tall / 2, min(HEADROOM * tall, ABOVE * (height - tall)))
    if tall > height:
        above = (1 - CHIN) * height - tall
    return Crop(
        top=_within(face.top - above, face.top, face.bottom, height, whole.height),
        left=_within((face.left + face.right - width) / 2, face.left, face.right, width, whole.width),
        height=height,
        width=width,
    )


def _within(wanted: float, low: float, high: float, side: int, limit: int) -> int:
    """Where a crop's side begins: as wanted, but with low to high in it and itself within 0 to limit."""
    if high - low <= side:
        wanted = min(max(wanted, high - side), low)
    return round(min(max(wanted, 0), limit - side))
