"""A whole portrait with the part of it that is used: the crop, bars beside it, and the faces with numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import PixelBox, VideoShape
from .canvas import resize
from .drawing import Pen
from .framing import Crop, mask_extent

PREVIEW_SIDE = 960
"""Pixels of the longer side."""
MAX_ASPECT = 8
"""Of a picture that is longer, only as much is shown."""
UNUSED_BRIGHTNESS = 0.25
"""Brightness of what is not used, as a share of the picture's."""
BAR_OPACITY = 0.7
"""Of bars over the picture; beside it they hide everything."""
EMPTY_BRIGHTNESS = 0.08
"""Where there is neither picture nor canvas."""
BAR_LEVELS, BAR_STRIPE = (0.16, 0.22), 8
ACCENT, PALE, DARK = "#ffbf1a", "#ebebeb", "#101010"
"""The chosen face and what the reference network sees; other faces and the crop; the edges of all lines."""
NUMBER_SIZE, NUMBER_MARGIN = 26, 6
THICK, THIN, DASH = 4, 2, 12

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the preview."""


def draw_portrait_preview(
    picture: Tensor,
    mask: Tensor,
    shape: VideoShape,
    crop: Crop,
    faces: Sequence[PixelBox] = (),
    index: int | Collection[int] | None = None,
) -> Tensor:
    """A picture [3, h, w] in 0..1 with a face mask [h, w] and a crop -> [3, H', W'], 960 px the longer side.
    What the canvas does not show is dark; beside a square crop are striped bars. ``faces``, from left to
    right, have boxes with numbers from 1, and ``faces[index]``, one or several, have the colour of the dashed
    box around what the reference network sees. All lines have dark edges, to be visible on any background."""
    view = _get_view(crop, *picture.shape[1:])
    canvas, used = _get_canvas(crop, shape), crop.visible_box(shape)
    left, top = min(view.box.left, canvas.left), min(view.box.top, canvas.top)
    width = max(view.box.right, canvas.right) - left
    height = max(view.box.bottom, canvas.bottom) - top
    scale = PREVIEW_SIDE / max(width, height)
    board = _Board(left, top, scale, max(1, round(height * scale)), max(1, round(width * scale)))
    pen = Pen.on_picture(board.render(view.of(picture), view.box, canvas, used))
    _draw_frame(pen, board.place(used), PALE, THIN)
    visible = mask_extent(mask > 0.5)
    if visible is not None and visible.area < mask.numel():
        _draw_dashes(pen, board.place(visible))
    chosen = [index] if index is None or isinstance(index, int) else index
    for n, face in sorted(enumerate(faces), key=lambda numbered: numbered[0] in chosen):
        _draw_numbered_box(pen, board.place(face), n + 1, n in chosen)
    return pen.picture()


def _get_view(crop: Crop, height: int, width: int) -> Crop:
    """The part of a picture to show: all, or a part of a strip around the crop."""
    tall = min(height, max(crop.height, MAX_ASPECT * width))
    wide = min(width, max(crop.width, MAX_ASPECT * height))
    top = min(max(0, crop.top + (crop.height - tall) // 2), height - tall)
    left = min(max(0, crop.left + (crop.width - wide) // 2), width - wide)
    return Crop(top=top, left=left, height=tall, width=wide)


def _get_canvas(crop: Crop, shape: VideoShape) -> PixelBox:
    """The canvas on the portrait; the bars of a square may leave it."""
    if crop.height != crop.width:
        return crop.visible_box(shape)
    left, top, right, bottom = crop.box
    scale = crop.height / min(shape.height, shape.width)
    across, down = (shape.width * scale - crop.width) / 2, (shape.height * scale - crop.height) / 2
    return PixelBox(left - across, top - down, right + across, bottom + down)


@dataclass(frozen=True, slots=True)
class _Board:
    """The preview before anything is drawn on it: ``height`` x ``width`` pixels, ``scale`` times as fine as
    the portrait's, from ``left``, ``top`` of the portrait on."""

    left: float
    top: float
    scale: float
    height: int
    width: int

    def place(self, box: PixelBox) -> Rectangle:
        left, right = (round((edge - self.left) * self.scale) for edge in (box.left, box.right))
        top, bottom = (round((edge - self.top) * self.scale) for edge in (box.top, box.bottom))
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def render(self, picture: Tensor, view: PixelBox, canvas: PixelBox, used: PixelBox) -> Tensor:
        """The picture at ``view``, dark except where it is ``used``; bars over the rest of the canvas."""
        bright = torch.full((3, self.height, self.width), EMPTY_BRIGHTNESS / UNUSED_BRIGHTNESS)
        left, top, right, bottom = self.place(view)
        shown = resize(picture.float(), (bottom - top, right - left), "bilinear")
        bright[:, top:bottom, left:right] = shown.clamp(0, 1)
        preview = bright * UNUSED_BRIGHTNESS
        opacity = torch.ones_like(preview[0])
        opacity[top:bottom, left:right] = BAR_OPACITY
        left, top, right, bottom = self.place(canvas)
        bars = slice(max(0, top), bottom), slice(max(0, left), right)
        y, x = torch.arange(preview[0][bars].shape[0])[:, None], torch.arange(preview[0][bars].shape[1])
        stripes = torch.where(((x + y) // BAR_STRIPE) % 2 == 0, *BAR_LEVELS)
        preview[:, *bars].lerp_(stripes.expand(3, -1, -1), opacity[bars].expand(3, -1, -1))
        left, top, right, bottom = self.place(used)
        preview[:, top:bottom, left:right] = bright[:, top:bottom, left:right]
        return preview


def _draw_frame(pen: Pen, box: Rectangle, colour: str, width: int) -> None:
    """The inner edge of a box, between two dark lines."""
    for inset, line_colour, line_width in ((-1, DARK, width + 2), (0, colour, width)):
        left, top, right, bottom = box[0] + inset, box[1] + inset, box[2] - 1 - inset, box[3] - 1 - inset
        corners = left, top, max(left, right), max(top, bottom)
        pen.draw.rectangle(corners, outline=line_colour, width=line_width)


def _draw_dashes(pen: Pen, box: Rectangle) -> None:
    left, top, right, bottom = box[0], box[1], box[2] - THIN, box[3] - THIN
    _draw_frame(pen, box, DARK, THIN)
    for x in range(left, right + 1, 2 * DASH):
        for y in (top, bottom):
            pen.box((x, y, min(x + DASH, right + THIN) - 1, y + THIN - 1), ACCENT)
    for y in range(top, bottom + 1, 2 * DASH):
        for x in (left, right):
            pen.box((x, y, x + THIN - 1, min(y + DASH, bottom + THIN) - 1), ACCENT)


def _draw_numbered_box(pen: Pen, box: Rectangle, number: int, is_chosen: bool) -> None:
    """A box with its number on a plate above it or, at the picture's edge, inside of it."""
    colour = ACCENT if is_chosen else PALE
    _draw_frame(pen, box, colour, THICK if is_chosen else THIN)
    width = round(pen.text_width(str(number), NUMBER_SIZE)) + 2 * NUMBER_MARGIN
    height = NUMBER_SIZE + NUMBER_MARGIN
    left = min(max(0, box[0]), pen.image.width - width)
    top = box[1] - height if box[1] >= height else max(0, box[1])
    right, bottom = left + width, top + height
    _draw_frame(pen, (left - 1, top - 1, right + 1, bottom + 1), DARK, 1)
    pen.box((left, top, right - 1, bottom - 1), colour)
    pen.text((left + right) / 2, (top + bottom) / 2, str(number), NUMBER_SIZE, DARK, "mm")
