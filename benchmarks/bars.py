"""Charts of level bars, drawn with the pen of the package's own charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hallo3.media.drawing import GREY, GRID, INK, Pen

WIDTH = 960
LEFT, RIGHT = 250, 120
HEADER, TITLE, ROW, BETWEEN, FOOTER = 70, 30, 24, 20, 14
OURS, THEIRS = "#0072b2", "#8a8378"
"""The colour-blind can tell them."""


class Bar(NamedTuple):
    """A value, what it is called and how it is written; ``ours`` or the original's."""

    label: str
    value: float
    text: str
    ours: bool


class Panel(NamedTuple):
    """Bars that share a scale, which begins at 0."""

    title: str
    about: str
    bars: tuple[Bar, ...]


def draw_bars(title: str, told: str, panels: Sequence[Panel]) -> Tensor:
    """A chart [3, H, 960] in 0..1. Raises ``ValueError`` where there is nothing to draw."""
    if not panels or any(not panel.bars for panel in panels):
        raise ValueError("there is nothing to draw")
    rows = sum(len(panel.bars) for panel in panels)
    height = HEADER + rows * ROW + len(panels) * (TITLE + BETWEEN) - BETWEEN + FOOTER
    pen = Pen.on_page(WIDTH, height)
    pen.text(16, 26, title, 19, INK)
    pen.text(16, 49, told, 13, GREY)
    top = HEADER
    for panel in panels:
        _draw(pen, panel, top)
        top += TITLE + len(panel.bars) * ROW + BETWEEN
    return pen.picture()


def _draw(pen: Pen, panel: Panel, top: float) -> None:
    pen.text(16, top + 10, panel.title, 15, INK)
    pen.text(16 + pen.text_width(panel.title, 15) + 10, top + 11, panel.about, 12, GREY)
    most = max(bar.value for bar in panel.bars) or 1.0
    first = top + TITLE
    pen.line([(LEFT, first - 4), (LEFT, first + len(panel.bars) * ROW)], GRID, 1)
    for place, bar in enumerate(panel.bars):
        middle = first + place * ROW + ROW / 2 - 2
        right = LEFT + (WIDTH - LEFT - RIGHT) * bar.value / most
        pen.text(LEFT - 10, middle, bar.label, 13, INK, "rm")
        pen.box((LEFT, middle - 8, max(right, LEFT + 1), middle + 8), OURS if bar.ours else THEIRS)
        pen.text(right + 8, middle, bar.text, 13, INK)
