"""Lines, text and boxes on a picture, for the charts and the portrait preview.

matplotlib draws such charts; it and what it needs take 60 MB to install, for two charts that are optional.
A third kind of chart would be a reason to require it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMOOTHING = 2
"""Charts are drawn this many times as large and scaled down, which smooths lines."""
DASH = 6
GRID, GREY, INK = "#e4e4e4", "#5f5f5f", "#1c1c1c"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Pen:
    """Draws on ``image``, whose pixels are ``scale`` times as fine as the coordinates."""

    def __init__(self, image: Image.Image, scale: int = 1) -> None:
        self.image, self.scale = image, scale
        self.draw = ImageDraw.Draw(image)

    @classmethod
    def on_page(cls, width: int, height: int) -> Pen:
        return cls(Image.new("RGB", (width * SMOOTHING, height * SMOOTHING), "#ffffff"), SMOOTHING)

    @classmethod
    def on_picture(cls, picture: Tensor) -> Pen:
        """A copy of a picture [3, h, w] in 0..1."""
        pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0)
        return cls(Image.fromarray(pixels.contiguous().numpy()))

    def text(self, x: float, y: float, text: str, size: int, colour: str, anchor: str = "lm") -> None:
        """Text whose ``anchor`` (as Pillow names them) is at x, y."""
        self.draw.text((x * self.scale, y * self.scale), text, colour, _load_font(size * self.scale), anchor)

    def text_width(self, text: str, size: int) -> float:
        return _load_font(size * self.scale).getlength(text) / self.scale

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        scaled = [(round(x * self.scale), round(y * self.scale)) for x, y in points]
        self.draw.line(scaled, colour, round(width * self.scale), joint="curve")

    def dashes(self, left: float, right: float, y: float, colour: str) -> None:
        for start in np.arange(left, right, DASH * 1.5):
            self.line([(start, y), (min(start + DASH, right), y)], colour, 1)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self.draw.circle((x * self.scale, y * self.scale), radius * self.scale, colour)

    def box(self, box: Box, colour: str) -> None:
        self.draw.rectangle([edge * self.scale for edge in box], colour)

    def picture(self) -> Tensor:
        """The drawing, [3, h, w] in 0..1."""
        pixels = np.array(self.image.reduce(self.scale) if self.scale > 1 else self.image)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def round_step(minimum: float) -> float:
    """The smallest number of at least ``minimum`` that is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(minimum))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= minimum * (1 - 1e-9))
