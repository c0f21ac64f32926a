"""Framing: which part of a portrait is used, so that the face is where it is in ordinary portraits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError, check_choice
from ..geometry import PixelBox, VideoShape
from .canvas import cover_size, keeps_whole

FRAMINGS = ("auto", "original", "face")
"""How a portrait is cropped: around the face if useful, like the original, always around the face."""
FACE_HEIGHT = 0.45
"""Of the crop's height. The original's portraits have 0.34 to 0.64, 0.44 on average."""
FACE_WIDTH = 0.6
"""Of the crop's width, at most, in a narrow crop."""
FACE_CENTRE = 0.44
"""The face's middle from the top of the crop: its eyes are then at 0.4, its hair is inside."""
HEADROOM = 0.36
"""Room for hair and some air above a face, in heights of the face."""
MAX_SHARE_ABOVE = 0.6
"""Of the height that a face leaves, if there is little."""
CHIN_ROOM = 0.06
"""Below the chin of a face taller than the crop, in heights of the crop: it must not be on a soft edge."""
TIGHT_HEIGHT = 0.55
"""A face's height, in heights of the crop, from which a square is used if it is roomier."""
MAX_FACE_AREA = 0.98
"""A face with a larger share of the picture says nothing about where the face is."""
MASK_RATIO = 1.2
"""Width and height of the original's mask relative to the face's box (facts 10)."""
MIN_CROP_SIDE = 64
"""Pixels: what a portrait must have."""
FINE_STEPS = 32
"""A crop of this many steps of the canvas' aspect has it exactly; a smaller one to half a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a portrait, in whole pixels of the portrait; at least one each way."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Crop:
        return cls(top=0, left=0, height=height, width=width)

    @property
    def box(self) -> PixelBox:
        return PixelBox(self.left, self.top, self.left + self.width, self.top + self.height)

    def of(self, picture: Tensor) -> Tensor:
        """This part of a picture or a mask [..., h, w]: a view."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def visible_box(self, shape: VideoShape) -> PixelBox:
        """What the canvas shows of the portrait: ``fit`` cuts all but squares to the canvas' aspect."""
        if self.height == self.width:
            return self.box
        (rows, columns), top, left = cover_size(self.height, self.width, shape.height, shape.width)
        y, x = self.height / rows, self.width / columns
        return PixelBox(
            self.left + left * x,
            self.top + top * y,
            self.left + (left + shape.width) * x,
            self.top + (top + shape.height) * y,
        )


def plan_crop(
    height: int, width: int, face: PixelBox | None, shape: VideoShape, framing: str = "auto"
) -> Crop:
    """The part of a portrait of height x width that is fitted to the canvas.

    ``face`` is a face without hair, from the forehead to the chin, in pixels; what is outside of the portrait
    is ignored. "original": everything, so that ``fit`` pads a square and cuts the middle out of all others.
    "face": a crop of the canvas' aspect, or a square if that is roomier and the other would be tight, with
    the face at its place (decision 012). "auto": everything if the portrait is square or like the canvas, or
    nothing is known about the face; otherwise as "face". Raises ``InputError`` for another framing, and for
    "face" without a face.
    """
    check_choice(framing, FRAMINGS, "framing")
    whole = Crop.whole(height, width)
    visible: PixelBox | None = None
    if face is not None:
        left, top, right, bottom = inside = face.intersect(whole.box)
        if all(map(math.isfinite, inside)) and inside.area > 0:
            visible = PixelBox(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    if keeps_whole(height, width, shape, framing):
        return whole
    if framing == "auto" and (visible is None or visible.area >= MAX_FACE_AREA * whole.box.area):
        return whole
    if visible is None:
        raise InputError(
            "There is no face to frame.",
            found="no face in the portrait" if face is None else "a face outside of the portrait",
            expected="a portrait with a known face",
            fix="choose another framing, or pass the face's place",
        )
    canvas = _plan_size(visible, whole, shape.height, shape.width)
    square = _plan_size(visible, whole, 1, 1)
    tightness = _measure_tightness(visible, canvas)
    roomier = tightness > 1 and _measure_tightness(visible, square) < tightness
    return _place_crop(visible, square if roomier else canvas, whole)


def face_box(mask: Tensor) -> PixelBox | None:
    """The box of the face that a mask [h, w] was made for, which is smaller than the mask's. None for an
    empty mask, or one that covers (nearly) the whole picture: nothing is known about the face then."""
    box = mask_extent(mask > 0.5)
    if box is None or box.area >= MAX_FACE_AREA * mask.numel():
        return None
    left, top, right, bottom = box
    across, down = (right - left) / MASK_RATIO / 2, (bottom - top) / MASK_RATIO / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return PixelBox(x - across, y - down, x + across, y + down)


def mask_extent(mask: Tensor) -> PixelBox | None:
    """The box around all that is true in [h, w]; None if nothing is."""
    rows, columns = (mask.any(dim=dim).nonzero() for dim in (1, 0))
    if not len(rows):
        return None
    return PixelBox(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _measure_tightness(face: PixelBox, size: tuple[int, int]) -> float:
    """Above 1 if the face has less room than it should."""
    height, width = (face.bottom - face.top) / size[0], (face.right - face.left) / size[1]
    return max(height / TIGHT_HEIGHT, width / FACE_WIDTH * FACE_HEIGHT / TIGHT_HEIGHT)


def _plan_size(face: PixelBox, whole: Crop, rows: int, columns: int) -> tuple[int, int]:
    """Height and width, of the aspect columns : rows, in which the face has its share; else the largest."""
    aspect = columns / rows
    target = max(
        (face.bottom - face.top) / FACE_HEIGHT,
        (face.right - face.left) / FACE_WIDTH / aspect,
        MIN_CROP_SIDE,
        MIN_CROP_SIDE / aspect,
    )
    height = max(1, math.floor(min(target, whole.height, whole.width / aspect)))
    step = rows // math.gcd(rows, columns)
    if height >= FINE_STEPS * step:
        height -= height % step
    return height, max(1, min(whole.width, round(height * aspect)))


def _place_crop(face: PixelBox, size: tuple[int, int], whole: Crop) -> Crop:
    """A crop of a size inside of the picture, with the face inside of it if possible. Of a face that is
    taller than the crop, the chin is preferred to the forehead: a mouth moves."""
    (height, width), face_height = size, face.bottom - face.top
    room = min(HEADROOM * face_height, MAX_SHARE_ABOVE * (height - face_height))
    above = max(FACE_CENTRE * height - face_height / 2, room)
    if face_height > height:
        above = (1 - CHIN_ROOM) * height - face_height
    left = (face.left + face.right - width) / 2
    return Crop(
        top=_place_side(face.top - above, face.top, face.bottom, height, whole.height),
        left=_place_side(left, face.left, face.right, width, whole.width),
        height=height,
        width=width,
    )


def _place_side(start: float, low: float, high: float, side: int, limit: int) -> int:
    """A side's start: at ``start``, but with low to high inside if possible, and in 0 to limit."""
    if high - low <= side:
        start = min(max(start, high - side), low)
    return round(min(max(start, 0), limit - side))
