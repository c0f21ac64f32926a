"""A picture of a recording as it is listened to: loudness, silence, and where segments meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .drift import Drift, columns_of
from .loudness import FAINTEST, GainCurve, LoudnessMeter, loud_level, silences

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


SPEECH_LEFT, SPEECH_RIGHT, SPEECH_HEADER, SPEECH_PLOT, LANE, SPEECH_FOOTER = 64, 132, 76, 190, 24, 54
SPEECH_COLUMN = 2
"""Pixels that a frame should have; where it has less, several share a column."""
BAR, NUMBER = 5, 30
"""Pixels from one border of segments to the next that is drawn, and to the next that is numbered."""
FULL_SCALE = 0.999
"""What comes so near to 1 may have been cut off there."""
RANGE = (-60.0, -80.0)
"""Where the axis ends, in dBFS: at the first of these, or as far down as there are sounds, to the second."""
LINE, BAND, HEARD, FULL = "#0072b2", "#c4dff0", "#b84a00", "#d1232a"
SILENCE, BORDER = (0xE7, 0xE2, 0xDA), "#9a9a9a"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Stretches of frames, each a column: shares of the time at their borders, the mean and the greatest
    level in each, the share that is silence, and whether full scale is reached."""

    edges: list[float]
    mean: list[float]
    high: list[float]
    silent: list[float]
    full: list[bool]


def draw_speech(
    loudness: LoudnessMeter, frames_a_segment: int, *, gains: GainCurve | None = None, width: int = 960
) -> Tensor:
    """A chart [3, H, width] in 0..1 of a recording that adds so many frames a segment to a video.

    A line for the level of every frame over time, and where frames share a place for their power's mean, with
    a band up to the loudest; silence shaded; borders and numbers of segments, as many as there is room for.
    With ``gains`` a second line shows what the encoder hears. Raises ``ValueError`` for a recording without
    frames, no frames a segment or a width under 480.
    """
    levels = loudness.levels
    if not len(levels) or frames_a_segment < 1 or width < NARROWEST:
        raise ValueError(f"cannot draw {len(levels)} frames, {frames_a_segment} a segment, on {width} px")
    pen = Pen(width, SPEECH_HEADER + SPEECH_PLOT + LANE + SPEECH_FOOTER)
    seconds = len(levels) / loudness.fps
    box = (SPEECH_LEFT, SPEECH_HEADER, width - SPEECH_RIGHT, SPEECH_HEADER + SPEECH_PLOT)
    _head(pen, loudness, levels, frames_a_segment)
    ticks = _ticks(seconds, box)
    _plot(pen, loudness, levels, gains, box, [tick / seconds for tick in ticks])
    _segments(pen, len(levels), frames_a_segment, box)
    for tick in ticks:
        x = SPEECH_LEFT + (box[2] - SPEECH_LEFT) * tick / seconds
        pen.text(x, box[3] + LANE + 14, clock(tick, ticks[1] < 1), 13, GREY, "mm")
    pen.text(box[2], box[3] + LANE + SPEECH_FOOTER - 16, "minutes:seconds", 12, GREY, "rm")
    return pen.picture()


def _ticks(seconds: float, box: Box) -> list[float]:
    step = time_step(seconds / ((box[2] - box[0]) // 90))
    return [step * place for place in range(max(int(seconds / step + 1e-9) + 1, 2))]


def _head(pen: Pen, loudness: LoudnessMeter, levels: Tensor, frames_a_segment: int) -> None:
    count, frames = -(-len(levels) // frames_a_segment), len(levels)
    pen.text(16, 26, f"Speech over {clock(frames / loudness.fps, frames < SHORT * loudness.fps)}", 19, INK)
    each = f" of {frames_a_segment / loudness.fps:.3g} s" if count > 1 else ""
    told = f"{frames:,} frame{'s' * (frames > 1)} in {count:,} segment{'s' * (count > 1)}{each}"
    pen.text(16, 50, told, 13, GREY)
    loud = loud_level(levels)
    silent = float(silences(levels).float().mean())
    words = f"loud parts {loud:.0f} dBFS, {silent:.0%} silence" if loud > FAINTEST else "digital silence"
    right = pen.image.width / TWICE - SPEECH_RIGHT
    beside = 16 + pen.length(told, 13) + 10 + pen.length(words, 13) <= right
    pen.text(right, 50 if beside else 26, words, 13, LINE, "rm")


def _columns(levels: Tensor, peaks: Tensor, most: int) -> _Columns:
    count = min(len(levels), most)
    places = [place * len(levels) // count for place in range(count + 1)]
    silent, power = silences(levels).float(), 10 ** (levels.double() / 10)
    stretches = list(pairwise(places))
    return _Columns(
        edges=[place / len(levels) for place in places],
        mean=[10 * math.log10(float(power[a:b].mean())) for a, b in stretches],
        high=[float(levels[a:b].max()) for a, b in stretches],
        silent=[float(silent[a:b].mean()) for a, b in stretches],
        full=[bool((peaks[a:b] >= FULL_SCALE).any()) for a, b in stretches],
    )


def _plot(
    pen: Pen,
    loudness: LoudnessMeter,
    levels: Tensor,
    gains: GainCurve | None,
    box: Box,
    ticks: Sequence[float],
) -> None:
    left, top, right, bottom = box
    columns = _columns(levels, loudness.peaks, int(right - left) // SPEECH_COLUMN)
    faintest = min((high for high in columns.high if high > RANGE[1]), default=RANGE[0])
    low = max(min(RANGE[0], 20 * math.floor(faintest / 20)), RANGE[1])

    def x(share: float) -> float:
        return left + (right - left) * share

    def y(level: float) -> float:
        return bottom - (bottom - top) * min(max((level - low) / -low, 0), 1)

    stretches = list(pairwise(x(edge) for edge in columns.edges))
    for (start, stop), silent in zip(stretches, columns.silent, strict=True):
        if silent:
            pen.box((start, top, stop, bottom), _shade(math.sqrt(silent)))
    for value in range(round(low), 1, 20):
        pen.line([(left, y(value)), (right, y(value))], GRID, 1)
        pen.text(left - 8, y(value), f"{value} dB" if value == 0 else f"{value}", 12, GREY, "rm")
    for tick in ticks:
        if tick <= 1:
            pen.line([(x(tick), top), (x(tick), bottom)], GRID, 1)
    if len(levels) > len(stretches):
        for (start, stop), mean, high in zip(stretches, columns.mean, columns.high, strict=True):
            pen.box((start, y(high), stop, y(mean)), BAND)
    pen.line(_steps(stretches, [y(mean) for mean in columns.mean]), LINE, 1.5)
    if gains is not None:
        heard = _columns(_heard(levels, gains), loudness.peaks, len(stretches))
        pen.line(_steps(stretches, [y(mean) for mean in heard.mean]), HEARD, 1.5)
    for (start, stop), full in zip(stretches, columns.full, strict=True):
        if full:
            pen.box((start, top - 5, max(stop, start + 1.5), top - 1), FULL)
    _legend(pen, box, gains is not None, any(columns.full), any(columns.silent), len(levels) > len(stretches))


def _heard(levels: Tensor, gains: GainCurve) -> Tensor:
    """What the encoder hears, by the gain in the middle of each frame."""
    middle = (gains.edges[:-1] + gains.edges[1:]) / 2
    return (levels + 20 * middle.log10()).clamp(min=FAINTEST)


def _steps(stretches: Sequence[tuple[float, float]], heights: Sequence[float]) -> list[tuple[float, float]]:
    """A line through the middles of columns, from the first one's beginning to the last one's end."""
    middles = [((start + stop) / 2, y) for (start, stop), y in zip(stretches, heights, strict=True)]
    return [(stretches[0][0], heights[0]), *middles, (stretches[-1][1], heights[-1])]


def _shade(share: float) -> str:
    red, green, blue = (round(255 + (part - 255) * share) for part in SILENCE)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _legend(pen: Pen, box: Box, heard: bool, full: bool, silent: bool, shared: bool) -> None:
    _, top, right, _ = box
    shown = [(LINE, "as recorded"), (BAND, "loudest")] if shared else [(LINE, "as recorded")]
    shown += [(HEARD, "as it is heard")] * heard + [(_shade(1), "silence")] * silent
    for place, (colour, text) in enumerate([*shown, *[(FULL, "full scale")] * full]):
        y = top + 8 + 20 * place
        pen.box((right + 10, y - 4, right + 22, y + 4), colour)
        pen.text(right + 28, y, text, 12, INK)


def _segments(pen: Pen, frames: int, frames_a_segment: int, box: Box) -> None:
    """A lane under the plot with the borders of segments; numbers begin with 1, as for ``--redo``."""
    left, top, right, bottom = box
    width = (right - left) * frames_a_segment / frames
    count = -(-frames // frames_a_segment)
    pen.text(left - 8, bottom + LANE / 2 + 2, "segment", 12, GREY, "rm")
    each, numbered = _every(BAR / width), _every((NUMBER + 6 * len(str(count))) / width)
    each = next(step for step in range(each, numbered + 1) if numbered % step == 0)
    for index in range(0, count, each):
        x, long = left + width * index, index % numbered == 0
        if index:
            _dots(pen, x, top, bottom) if width * each > 12 else None
        pen.line([(x, bottom), (x, bottom + (LANE if long else LANE / 3))], BORDER, 1)
        if long and x + 8 * len(str(index + 1)) < right:
            pen.text(x + 4, bottom + LANE / 2 + 2, f"{index + 1}", 12, GREY)
    pen.line([(left, bottom), (right, bottom)], BORDER, 1)


def _dots(pen: Pen, x: float, top: float, bottom: float) -> None:
    for y in range(round(top), round(bottom), 6):
        pen.line([(x, y), (x, min(y + 3, bottom))], BORDER, 1)


def _every(least: float) -> int:
    """1, 2 or 5 times a power of ten, not less."""
    if least <= 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)
