"""A chart of time and memory against the length of speech."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hallo3.media.drawing import GREY, GRID, INK, Box, Pen, round_step

WIDTH, HEIGHT = 960, 360
HEADER, BOTTOM, BETWEEN, LEFT, RIGHT = 92, 56, 90, 64, 30
LINE, LIGHT = "#0072b2", "#a9d0e8"


def draw_length(rows: Sequence[Mapping[str, Any]], line: Mapping[str, float] | None) -> Tensor:
    """A chart [3, 360, 960] in 0..1: seconds with the ``line`` through them, and memory where it is known.
    Raises ``ValueError`` without rows."""
    if not rows:
        raise ValueError("there is nothing to draw")
    pen = Pen.on_page(WIDTH, HEIGHT)
    pen.text(16, 26, "What a longer speech costs", 19, INK)
    pen.text(16, 49, "hallo3 animate from start to end, a random NANO set on the CPU", 13, GREY)
    width = (WIDTH - LEFT - RIGHT - BETWEEN) / 2
    first: Box = (LEFT, HEADER, LEFT + width, HEIGHT - BOTTOM)
    second: Box = (LEFT + width + BETWEEN, HEADER, WIDTH - RIGHT, HEIGHT - BOTTOM)
    x = [row["segments"] for row in rows]
    about = "" if line is None else f"{line['each']:.3g} s a segment, r^2 {line['r2']:.5f}"
    points = [(at, row["seconds"]) for at, row in zip(x, rows, strict=True)]
    _panel(pen, first, "Seconds", about, points, line)
    known = [(row["segments"], row["anonymous_mb"]) for row in rows if "anonymous_mb" in row]
    most = "MB, anonymous, the most at any time" if known else "not measured here"
    _panel(pen, second, "Memory", most, known, None)
    return pen.picture()


def _panel(
    pen: Pen,
    box: Box,
    title: str,
    about: str,
    points: Sequence[tuple[float, float]],
    line: Mapping[str, float] | None,
) -> None:
    left, top, right, bottom = box
    pen.text(left, top - 16, title, 15, INK)
    pen.text(left + pen.text_width(title, 15) + 10, top - 15, about, 12, GREY)
    if not points:
        return
    across, up = _axis(max(x for x, _ in points)), _axis(max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / across[-1], bottom - (bottom - top) * y / up[-1]

    for value in up:
        height = place(0, value)[1]
        pen.line([(left, height), (right, height)], GRID, 1)
        pen.text(left - 8, height, f"{value:.4g}", 12, GREY, "rm")
    for value in across:
        pen.text(place(value, 0)[0], bottom + 15, f"{value:.4g}", 12, GREY, "mm")
    pen.text(right, bottom + 36, "segments", 12, GREY, "rm")
    if line is not None:
        ends = 0.0, max(x for x, _ in points)
        pen.line([place(x, line["start"] + line["each"] * x) for x in ends], LIGHT, 3)
    else:
        pen.line([place(x, y) for x, y in points], LIGHT, 3)
    for x, y in (place(*point) for point in points):
        pen.dot(x, y, 4, LINE)


def _axis(most: float) -> list[float]:
    """Round values from 0 to no less than the most."""
    step = round_step(most / 5)
    return [step * count for count in range(math.ceil(most / step - 1e-9) + 1)]
