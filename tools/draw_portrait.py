"""Draw the sample portrait: ``python tools/draw_portrait.py OUT.png``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE, OVERSAMPLED = 480, 4

WALL_TOP, WALL_BOTTOM = (196, 212, 219), (142, 163, 174)
SKIN, SHADE, BLUSH = (232, 188, 160), (214, 164, 136), (230, 174, 150)
HAIR, BROW = (74, 48, 36), (62, 40, 30)
SHIRT, COLLAR = (58, 84, 112), (236, 232, 224)
WHITE, IRIS, PUPIL = (250, 249, 246), (82, 112, 92), (24, 22, 22)
LIP, LIP_DARK = (186, 96, 92), (132, 54, 56)


def portrait() -> Image.Image:
    """A drawn face, seen from the front, mouth closed."""
    k = SIDE * OVERSAMPLED / 480
    image = _wall(SIDE * OVERSAMPLED)
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, w: float, h: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse([k * (x - w / 2), k * (y - h / 2), k * (x + w / 2), k * (y + h / 2)], fill=colour)

    def shape(points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        draw.polygon([(k * x, k * y) for x, y in points], fill=colour)

    ellipse(240, 190, 226, 270, HAIR)
    shape([(130, 190), (350, 190), (362, 330), (318, 356), (162, 356), (118, 330)], HAIR)
    ellipse(240, 500, 400, 250, SHIRT)
    shape([(202, 300), (278, 300), (290, 400), (240, 432), (190, 400)], SHADE)
    shape([(186, 384), (240, 436), (220, 462), (166, 400)], COLLAR)
    shape([(294, 384), (240, 436), (260, 462), (314, 400)], COLLAR)
    ellipse(150, 222, 32, 54, SHADE)
    ellipse(330, 222, 32, 54, SHADE)
    ellipse(240, 210, 184, 240, SKIN)
    ellipse(184, 252, 36, 22, BLUSH)
    ellipse(296, 252, 36, 22, BLUSH)
    shape(
        [(142, 196), (142, 110), (200, 70), (280, 70), (334, 110), (336, 196), (296, 142), (236, 150)], HAIR
    )
    for x in (198, 282):
        ellipse(x, 206, 44, 27, WHITE)
        ellipse(x, 207, 22, 23, IRIS)
        ellipse(x, 207, 11, 12, PUPIL)
        ellipse(x + 4, 203, 5, 5, WHITE)
        draw.arc([k * (x - 24), k * 189, k * (x + 24), k * 222], 195, 345, fill=BROW, width=int(3 * k))
        draw.arc([k * (x - 27), k * 168, k * (x + 27), k * 204], 205, 335, fill=BROW, width=int(6 * k))
    draw.line([(k * 240, k * 212), (k * 232, k * 252), (k * 246, k * 256)], fill=SHADE, width=int(4 * k))
    ellipse(240, 288, 62, 20, LIP)
    draw.arc([k * 208, k * 270, k * 272, k * 294], 25, 155, fill=LIP_DARK, width=int(3 * k))
    return image.filter(ImageFilter.GaussianBlur(k / 2)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _wall(side: int) -> Image.Image:
    column = Image.new("RGB", (1, side))
    for y in range(side):
        share = y / side
        column.putpixel(
            (0, y),
            tuple(round(a + (b - a) * share) for a, b in zip(WALL_TOP, WALL_BOTTOM, strict=True)),
        )
    return column.resize((side, side))


if __name__ == "__main__":
    portrait().save(Path(sys.argv[1]), optimize=True)
