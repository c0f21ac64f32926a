"""A picture of how a video drifts: one small chart for each measure, over the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .chart import COLUMN, GREY, GRID, INK, NARROWEST, SHADE, SHORT, Box, Pen, clock, round_step, time_step
from .drift import Drift, columns_of

DRIFT_LEFT, DRIFT_RIGHT, DRIFT_HEADER, DRIFT_FOOTER = 64, 132, 64, 54
TITLE, DRIFT_PLOT, BETWEEN = 28, 96, 18
"""Rows of a panel's title, of its plot, and of nothing between panels."""
MOST = 1e9
"""What is greater is drawn as this."""


class Panel(NamedTuple):
    """How a measure is shown: title and meaning, hues of line and band, the axis' least extent, the
    dashed line's value and what it is, and values that are doubtful."""

    title: tuple[str, str]
    hues: tuple[str, str]
    extent: tuple[float, float]
    normal: tuple[float, str]
    doubtful: tuple[tuple[float, float, str], ...] = ()


PANELS = {
    "sharpness": Panel(
        ("Sharpness", "fine detail, 1 = as much as in the portrait"),
        ("#0072b2", "#a9d0e8"),
        (0.6, 1.4),
        (1, "as in the portrait"),
        ((-math.inf, 0.7, "blurred"), (1.3, math.inf, "too crisp or noisy")),
    ),
    "colour": Panel(
        ("Colour shift", "distance from the portrait's colours, 255 = black to white"),
        ("#b84a00", "#efc3a4"),
        (0, 10),
        (0, "as in the portrait"),
        ((8, math.inf, "visibly off"),),
    ),
    "seam": Panel(
        ("Seams", "change where segments meet, 1 = as much as inside them"),
        ("#007a5a", "#a6d9c9"),
        (0, 8),
        (1, "no seam to be seen"),
        ((6, math.inf, "a jump"),),
    ),
    "face": Panel(
        ("Face", "similarity to the portrait's face, 1 = the same"),
        ("#a3467f", "#e6c3d7"),
        (0.4, 1),
        (1, "the same face"),
    ),
}
"""From top to bottom; the last only where it was measured. The colour-blind can tell the hues."""


def draw_drift(drifts: Sequence[Drift], seconds_per_segment: float, *, width: int = 960) -> Tensor:
    """One drift a segment -> a chart [3, H, width] in 0..1; H depends on the number of panels only.

    Levels are steps as long as their segment, seams stand where segments meet. Where there are more
    segments than places, a band goes from the least to the greatest of a place and a line through
    means. Raises ``ValueError`` for no segments, a duration not above 0 or a width under 480.
    """
    if not drifts or not 0 < seconds_per_segment < math.inf or width < NARROWEST:
        raise ValueError(
            f"cannot draw {len(drifts)} segments of {seconds_per_segment} s on {width} px: expected"
            f" one at least, longer than 0 s, on {NARROWEST} px or more"
        )
    plot_width = width - DRIFT_LEFT - DRIFT_RIGHT
    values = {name: _values(drifts, name) for name in PANELS}
    shown = [name for name in PANELS if name != "face" or _known(values[name]).size]
    height = DRIFT_HEADER + len(shown) * (TITLE + DRIFT_PLOT + BETWEEN) - BETWEEN + DRIFT_FOOTER
    pen = Pen(width, height)
    seconds = len(drifts) * seconds_per_segment
    pen.text(16, 26, f"Drift over {clock(seconds, seconds < SHORT)}", 19, INK)
    told = f"{len(drifts)} segment{'s' * (len(drifts) > 1)} of {seconds_per_segment:.3g} s"
    if len(drifts) > plot_width // COLUMN:
        told += "; line: mean of several, band: least to greatest"
    pen.text(16, 47, told, 13, GREY)
    step = time_step(seconds / (plot_width // 90))
    ticks = [step * index for index in range(int(seconds / step + 1e-9) + 1)]
    for place, name in enumerate(shown):
        top = DRIFT_HEADER + place * (TITLE + DRIFT_PLOT + BETWEEN) + TITLE
        box = (DRIFT_LEFT, top, DRIFT_LEFT + plot_width, top + DRIFT_PLOT)
        _draw_panel(pen, name, values[name], box, ticks, seconds)
    for tick in ticks:
        x = DRIFT_LEFT + plot_width * tick / seconds
        pen.text(x, height - DRIFT_FOOTER + 16, clock(tick, step < 1), 13, GREY, "mm")
    pen.text(DRIFT_LEFT + plot_width, height - 16, "minutes:seconds", 12, GREY, "rm")
    return pen.picture()


def _draw_panel(
    pen: Pen, name: str, values: np.ndarray, box: Box, ticks: Sequence[float], seconds: float
) -> None:
    panel, (left, top, right, bottom) = PANELS[name], box
    (title, meaning), (line, band), (normal, normal_is) = panel.title, panel.hues, panel.normal
    most = int(right - left) // COLUMN
    columns = columns_of(torch.from_numpy(values), most)
    low = min([panel.extent[0], *(column.low for column in columns)])
    high = max([panel.extent[1], *(column.high for column in columns)])
    step = round_step((high - low) / 4)
    low, high = step * math.floor(low / step + 1e-6), step * math.ceil(high / step - 1e-6)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low)

    def x(share: float) -> float:
        return left + (right - left) * share

    for start, stop, label in panel.doubtful:
        pen.box((left, y(stop), right, y(start)), SHADE)
        middle = (y(start) + y(stop)) / 2
        if y(start) - y(stop) > 8 and abs(middle - y(normal)) > 13:
            pen.text(right + 10, middle, label, 12, GREY)
    for value in (step * index for index in range(round(low / step), round(high / step) + 1)):
        pen.line([(left, y(value)), (right, y(value))], GRID, 1)
        pen.text(left - 8, y(value), f"{value:.6g}", 12, GREY, "rm")
    for tick in ticks:
        pen.line([(x(tick / seconds), top), (x(tick / seconds), bottom)], GRID, 1)
    pen.dashes(left, right, y(normal))
    pen.text(right + 10, y(normal), normal_is, 12, INK)
    pen.text(left, top - 15, title, 15, INK)
    summary, beside = _summary(name, values, seconds), left + pen.length(title, 15) + 10
    pen.text(right, top - 14, summary, 12, line, "rm")
    if beside + pen.length(meaning, 12) + 10 + pen.length(summary, 12) <= right:
        pen.text(beside, top - 14, meaning, 12, GREY)
    if len(values) > most:
        for one in columns:
            pen.box((x(one.start), y(one.high), x(one.stop), y(one.low)), band)
    elif name == "seam":
        for one in columns:
            pen.pin(x(one.start), y(normal), y(one.mean), line)
        return
    path: list[tuple[float, float]] = []
    for one in columns:
        if path and x(one.start) > path[-1][0] + 1e-6:
            pen.line(path, line, 2)
            path = []
        path += [(x(one.start), y(one.mean)), (x(one.stop), y(one.mean))]
    pen.line(path, line, 2)


def _summary(name: str, values: np.ndarray, seconds: float) -> str:
    """The numbers one would ask for first."""
    known = _known(values)
    if not known.size:
        return "no seam yet" if name == "seam" else "not measured"
    if name == "seam":
        at = int(np.nanargmax(values)) * seconds / len(values)
        return f"largest {_digits(known.max())} at {clock(at, seconds < SHORT)}"
    first, last = _digits(known[0]), _digits(known[-1])
    return first if len(values) == 1 else f"first {first}, last {last}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.4g}"


def _values(drifts: Sequence[Drift], name: str) -> np.ndarray:
    """[N]; NaN is what was not measured, or is no number."""
    found = np.array([getattr(drift, name) for drift in drifts], dtype=np.float64)
    return np.where(np.isfinite(found), found.clip(-MOST, MOST), np.nan)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
