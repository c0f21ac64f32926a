"""What charts are drawn with: a pen, colours, round steps and times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

NARROWEST = 480
"""The least width of a chart, in pixels."""
TWICE = 2
"""Drawn so many times as large and scaled down: smooth lines."""
DASH = 6
ROUND_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
FONT_SIZES = (12, 13, 15, 19)
COLUMN = 4
"""Pixels that a value should have; where it has less, several share a column."""
SHORT = 60
"""Seconds of a video of which tenths are told."""
PAPER, SHADE, GRID = "#ffffff", "#f6e9dc", "#e4e4e4"
DASHES, GREY, INK = "#6b6b6b", "#5f5f5f", "#1c1c1c"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def clock(seconds: float, tenths: bool = False) -> str:
    """Minutes and seconds: 83 -> 1:23, with tenths 1:23.0."""
    if not tenths:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
    whole = round(seconds * 10)
    return f"{whole // 600}:{whole % 600 / 10:04.1f}"


def round_step(least: float) -> float:
    """The round number, 1, 2 or 5 times a power of ten, that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))


def time_step(least: float) -> float:
    """Seconds that are not less and round on a clock; no less than the tenth that is told."""
    if least <= 0.5:
        return max(0.1, round_step(least))
    return next((step for step in ROUND_SECONDS if step >= least), 3600 * round_step(least / 3600))


class Pen:
    """Draws in pixels of the finished picture on one ``TWICE`` as large."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * TWICE, height * TWICE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.fonts = {size: ImageFont.load_default(size * TWICE) for size in FONT_SIZES}

    def text(self, x: float, y: float, text: str, size: int, ink: str, anchor: str = "lm") -> None:
        """Text whose anchor (as Pillow names them) is there."""
        self.draw.text((x * TWICE, y * TWICE), text, ink, self.fonts[size], anchor)

    def length(self, text: str, size: int) -> float:
        """Pixels from the beginning of a text to its end."""
        return self.fonts[size].getlength(text) / TWICE

    def line(self, path: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """A line through points."""
        if path:
            points = [(round(x * TWICE), round(y * TWICE)) for x, y in path]
            self.draw.line(points, colour, round(width * TWICE), joint="curve")

    def dashes(self, left: float, right: float, y: float) -> None:
        """A level line of dashes."""
        for start in np.arange(left, right, DASH + DASH / 2):
            self.line([(start, y), (min(start + DASH, right), y)], DASHES, 1)

    def pin(self, x: float, foot: float, head: float, colour: str) -> None:
        """A point on a stalk."""
        self.line([(x, foot), (x, head)], colour, 1.5)
        self.draw.circle((x * TWICE, head * TWICE), 2.5 * TWICE, colour)

    def box(self, box: Box, colour: str) -> None:
        """A filled rectangle."""
        self.draw.rectangle([TWICE * side for side in box], colour)

    def picture(self) -> Tensor:
        """What was drawn, [3, height, width] in 0..1."""
        small = np.array(self.image.reduce(TWICE))
        return torch.from_numpy(small).permute(2, 0, 1).float() / 255
