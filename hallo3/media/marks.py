"""Boxes and numbers on a picture, to be seen on anything: all lines have a dark edge."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

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
