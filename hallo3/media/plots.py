"""Charts over time: how far a video has drifted from its portrait, and how loud a recording is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..units import format_clock
from .drawing import GREY, GRID, INK, Pen, round_step
from .drift import Drift
from .loudness import MIN_DBFS, GainCurve, LoudnessMeter, find_silence, loud_level

WIDTH, LEFT, RIGHT, FOOTER = 960, 64, 132, 36
"""Pixels of a chart, of the margins beside its plots and of the time axis."""
PLOT_WIDTH = WIDTH - LEFT - RIGHT
TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
SHORT_SECONDS = 60
"""Times of a shorter video have tenths."""


class _Plot(NamedTuple):
    """A box in which time goes from 0 to 1 and values from ``low`` to ``high``."""

    pen: Pen
    top: float
    bottom: float
    low: float
    high: float

    def x(self, share: float) -> float:
        return LEFT + PLOT_WIDTH * share

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.bottom - (self.bottom - self.top) * share

    def box(self, start: float, high: float, stop: float, low: float, colour: str) -> None:
        self.pen.box((self.x(start), self.y(high), self.x(stop), self.y(low)), colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self.pen.line([(self.x(share), self.y(value)) for share, value in points], colour, width)

    def grid(self, values: Sequence[float], ticks: Sequence[float], suffix: str = "") -> None:
        """Lines at ``values``, labelled, and at ``ticks`` (shares of the time)."""
        for value in values:
            self.line([(0, value), (1, value)], GRID, 1)
            label = f"{value:.6g}{suffix * (value == 0)}"
            self.pen.text(LEFT - 8, self.y(value), label, 12, GREY, "rm")
        for tick in ticks:
            self.line([(tick, self.low), (tick, self.high)], GRID, 1)


def _draw_time_axis(pen: Pen, top: float, seconds: float) -> list[float]:
    """Label times below ``top``; their shares of the whole."""
    least = seconds / (PLOT_WIDTH // 90)  # pixels between two times
    step = next((step for step in TICK_SECONDS if step >= least), 3600 * round_step(least / 3600))
    if least <= 0.5:
        step = max(0.1, round_step(least))
    ticks = [step * index / seconds for index in range(int(seconds / step + 1e-9) + 1)]
    for tick in ticks:
        pen.text(LEFT + PLOT_WIDTH * tick, top + 16, _format_time(tick * seconds, step < 1), 13, GREY, "mm")
    return ticks


def _format_time(seconds: float, tenths: bool) -> str:
    return f"{seconds:.1f} s" if tenths else format_clock(seconds)


def _split(count: int, max_parts: int) -> list[slice]:
    """``count`` values in at most ``max_parts`` runs of neighbours of about one length."""
    parts = max(1, min(count, max_parts))
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


DRIFT_HEADER, TITLE, PANEL, BETWEEN = 64, 28, 96, 18
"""Pixels above all panels, of a panel's title, of its plot, and between panels."""
DRIFT_COLUMN = 4
"""Pixels of a segment, at least; where it would have fewer, several share a column."""
DOUBTFUL, DASHES = "#f6e9dc", "#6b6b6b"


class Panel(NamedTuple):
    """How a measure is shown: colours of its line and its band, the axis' smallest range, the normal value
    (a dashed line), and ranges that are doubtful."""

    title: str
    meaning: str
    colours: tuple[str, str]
    range: tuple[float, float]
    normal: tuple[float, str]
    doubtful: tuple[tuple[float, float, str], ...] = ()


PANELS = {
    "sharpness": Panel(
        "Sharpness",
        "fine detail, 1 = as much as in the portrait",
        ("#0072b2", "#a9d0e8"),
        (0.6, 1.4),
        (1, "as in the portrait"),
        ((-math.inf, 0.7, "blurred"), (1.3, math.inf, "too crisp or noisy")),
    ),
    "colour": Panel(
        "Colour shift",
        "distance from the portrait's colours, 255 = black to white",
        ("#b84a00", "#efc3a4"),
        (0, 10),
        (0, "as in the portrait"),
        ((8, math.inf, "visible"),),
    ),
    "seam": Panel(
        "Seams",
        "change where segments meet, 1 = as much as inside them",
        ("#007a5a", "#a6d9c9"),
        (0, 8),
        (1, "invisible seam"),
        ((6, math.inf, "a jump"),),
    ),
    "face": Panel(
        "Face",
        "similarity to the portrait's face, 1 = the same",
        ("#a3467f", "#e6c3d7"),
        (0.4, 1),
        (1, "the same face"),
    ),
}
"""From top to bottom; the last only if it was measured. The colours are distinct to the colour-blind."""


def draw_drift(drifts: Sequence[Drift], seconds_per_segment: float) -> Tensor:
    """The drift of each segment as a chart [3, H, 960] in 0..1. If segments are narrower than 4 pixels, a
    line shows the mean of several, on a band from their lowest to their highest value. Raises ``ValueError``
    without segments or duration."""
    if not drifts or not 0 < seconds_per_segment < math.inf:
        raise ValueError(f"cannot draw {len(drifts)} segments of {seconds_per_segment} s")
    values = {name: np.array([getattr(drift, name) for drift in drifts], np.float64) for name in PANELS}
    names = [name for name in PANELS if name != "face" or bool(np.isfinite(values[name]).any())]
    bottom = DRIFT_HEADER + len(names) * (TITLE + PANEL + BETWEEN) - BETWEEN
    pen, seconds = Pen.on_page(WIDTH, bottom + FOOTER), len(drifts) * seconds_per_segment
    pen.text(16, 26, f"Drift over {_format_time(seconds, seconds < SHORT_SECONDS)}", 19, INK)
    subtitle = f"{len(drifts)} segment{'s' * (len(drifts) > 1)} of {seconds_per_segment:.3g} s"
    if len(drifts) > PLOT_WIDTH // DRIFT_COLUMN:
        subtitle += "; line: mean of several, band: lowest to highest"
    pen.text(16, 47, subtitle, 13, GREY)
    ticks = _draw_time_axis(pen, bottom, seconds)
    for place, name in enumerate(names):
        top = DRIFT_HEADER + place * (TITLE + PANEL + BETWEEN) + TITLE
        _draw_panel(pen, name, values[name], top, ticks, seconds)
    return pen.picture()


def _draw_panel(
    pen: Pen, name: str, values: np.ndarray, top: float, ticks: Sequence[float], seconds: float
) -> None:
    panel, right = PANELS[name], LEFT + PLOT_WIDTH
    values = np.where(np.isfinite(values), values.clip(-1e9, 1e9), np.nan)
    (line, band), (normal, normal_label) = panel.colours, panel.normal
    finite = values[np.isfinite(values)]
    low, high = min([panel.range[0], *finite]), max([panel.range[1], *finite])
    step = round_step((high - low) / 4)
    low, high = step * math.floor(low / step + 1e-6), step * math.ceil(high / step - 1e-6)
    plot = _Plot(pen, top, top + PANEL, low, high)
    for start, stop, label in panel.doubtful:
        plot.box(0, stop, 1, start, DOUBTFUL)
        middle = (plot.y(start) + plot.y(stop)) / 2
        if plot.y(start) - plot.y(stop) > 8 and abs(middle - plot.y(normal)) > 13:
            pen.text(right + 10, middle, label, 12, GREY)
    plot.grid([step * index for index in range(round(low / step), round(high / step) + 1)], ticks)
    pen.dashes(LEFT, right, plot.y(normal), DASHES)
    pen.text(right + 10, plot.y(normal), normal_label, 12, INK)
    pen.text(LEFT, top - 15, panel.title, 15, INK)
    pen.text(LEFT + pen.text_width(panel.title, 15) + 10, top - 14, panel.meaning, 12, GREY)
    pen.text(right, top - 14, _summarize(name, values, seconds), 12, line, "rm")
    path = list[tuple[float, float]]()
    for part in _split(len(values), PLOT_WIDTH // DRIFT_COLUMN):
        run = values[part][np.isfinite(values[part])]
        start, stop = part.start / len(values), part.stop / len(values)
        if len(run) and len(values) > PLOT_WIDTH // DRIFT_COLUMN:
            plot.box(start, run.max(), stop, run.min(), band)
        elif len(run) and name == "seam":
            plot.line([(start, normal), (start, run[0])], line, 1.5)
            pen.dot(plot.x(start), plot.y(run[0]), 2.5, line)
            continue
        if len(run):
            path += [(start, run.mean()), (stop, run.mean())]
        else:
            plot.line(path, line, 2)
            path = []
    plot.line(path, line, 2)


def _summarize(name: str, values: np.ndarray, seconds: float) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no seam yet" if name == "seam" else "not measured"
    if name == "seam":
        at = int(np.nanargmax(values)) * seconds / len(values)
        return f"highest {_format_value(finite.max())} at {_format_time(at, seconds < SHORT_SECONDS)}"
    first, last = _format_value(finite[0]), _format_value(finite[-1])
    return first if len(values) == 1 else f"first {first}, last {last}"


def _format_value(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.4g}"


SPEECH_TOP, SPEECH_BOTTOM, LANE = 76, 266, 24
"""Where the plot of speech begins and ends, and the pixels of the lane of segments below it."""
SPEECH_COLUMN = 2
"""Pixels of a frame, at least; where it would have fewer, several share a column."""
BORDER_WIDTH, NUMBER_WIDTH = 5, 30
"""Pixels between two borders of segments that are drawn, and between two that are numbered, at least."""
AXIS_TOP_DBFS, AXIS_BOTTOM_DBFS = -60.0, -80.0
"""The axis ends at the first, or as far down as there is sound, until the second."""
RECORDED, BAND, PROCESSED, CLIPPED = "#0072b2", "#c4dff0", "#b84a00", "#d1232a"
SILENCE, BORDER = (0xE7, 0xE2, 0xDA), "#9a9a9a"
PROMPTS = "#dcefe6", "#efe3ee"
"""Of prompts that follow one another."""


def draw_speech(
    loudness: LoudnessMeter,
    starts: Sequence[int],
    *,
    gains: GainCurve | None = None,
    prompts: Sequence[str] = (),
) -> Tensor:
    """A chart [3, H, 960] in 0..1 of the levels of a recording, with its silence and the segments of a video,
    which begin at the frames ``starts``. If frames are narrower than 2 pixels, the line shows the mean of
    their power, with a band up to the loudest. With ``gains`` a second line is what the encoder gets.
    ``prompts`` of the segments have a lane of their own if they differ. Raises ``ValueError`` without
    frames."""
    levels = loudness.levels
    if not len(levels) or not starts:
        raise ValueError(f"cannot draw {len(levels)} frames in {len(starts)} segments")
    frames, segments, seconds = len(levels), len(starts), len(levels) / loudness.fps
    changes = [n for n, prompt in enumerate(prompts) if not n or prompts[n - 1] != prompt]
    bottom = SPEECH_BOTTOM + LANE * (2 if len(changes) > 1 else 1)
    pen = Pen.on_page(WIDTH, bottom + FOOTER)
    pen.text(16, 26, f"Speech over {_format_time(seconds, seconds < SHORT_SECONDS)}", 19, INK)
    lengths = sorted({(stop - start) / loudness.fps for start, stop in pairwise(starts)})
    length = " to ".join(f"{each:.3g}" for each in {lengths[0]: 0, lengths[-1]: 0}) if lengths else ""
    left = f"{frames:,} frame{'s' * (frames > 1)} in {segments:,} segment{'s' * (segments > 1)}"
    left += f" of {length} s" * bool(length)
    pen.text(16, 50, left, 13, GREY)
    loud, silent = loud_level(levels), float(find_silence(levels).float().mean())
    right = f"loud parts {loud:.0f} dBFS, {silent:.0%} silence" if loud > MIN_DBFS else "digital silence"
    pen.text(LEFT + PLOT_WIDTH, 50, right, 13, RECORDED, "rm")
    ticks = _draw_time_axis(pen, bottom, seconds)
    _draw_levels(pen, levels, loudness.peaks, gains, ticks)
    _draw_segments(pen, frames, starts)
    if len(changes) > 1:
        _draw_prompts(pen, frames, [(starts[n], prompts[n]) for n in changes])
    return pen.picture()


def _draw_levels(
    pen: Pen, levels: Tensor, peaks: Tensor, gains: GainCurve | None, ticks: Sequence[float]
) -> None:
    parts = _split(len(levels), PLOT_WIDTH // SPEECH_COLUMN)
    edges = [(part.start / len(levels), part.stop / len(levels)) for part in parts]
    highest = [float(levels[part].max()) for part in parts]
    silent, clipped, has_band = find_silence(levels), peaks >= 0.999, len(levels) > len(parts)
    faintest = min((level for level in highest if level > AXIS_BOTTOM_DBFS), default=AXIS_TOP_DBFS)
    low = max(min(AXIS_TOP_DBFS, 20 * math.floor(faintest / 20)), AXIS_BOTTOM_DBFS)
    plot = _Plot(pen, SPEECH_TOP, SPEECH_BOTTOM, low, 0)
    for part, (start, stop) in zip(parts, edges, strict=True):
        if bool(silent[part].any()):
            plot.box(start, 0, stop, low, _shade(math.sqrt(float(silent[part].float().mean()))))
        if bool(clipped[part].any()):
            left = plot.x(start)
            pen.box((left, SPEECH_TOP - 5, max(plot.x(stop), left + 1.5), SPEECH_TOP - 1), CLIPPED)
    plot.grid(range(round(low), 1, 20), ticks, " dB")
    lines = {RECORDED: levels}
    if gains is not None:
        middle = (gains.edges[:-1] + gains.edges[1:]) / 2
        lines[PROCESSED] = (levels + 20 * middle.log10()).clamp(min=MIN_DBFS)
    for colour, line in lines.items():
        power = 10 ** (line.double() / 10)
        means = [10 * math.log10(float(power[part].mean())) for part in parts]
        if has_band and colour == RECORDED:
            for (start, stop), mean, high in zip(edges, means, highest, strict=True):
                plot.box(start, high, stop, mean, BAND)
        middles = [((start + stop) / 2, mean) for (start, stop), mean in zip(edges, means, strict=True)]
        plot.line([(0, means[0]), *middles, (1, means[-1])], colour, 1.5)
    legend = [(RECORDED, "as recorded")] + [(BAND, "loudest")] * has_band
    legend += [(PROCESSED, "processed")] * (gains is not None)
    legend += [(_shade(1), "silence")] * bool(silent.any()) + [(CLIPPED, "full scale")] * bool(clipped.any())
    for place, (colour, text) in enumerate(legend):
        x, y = LEFT + PLOT_WIDTH + 10, SPEECH_TOP + 8 + 20 * place
        pen.box((x, y - 4, x + 12, y + 4), colour)
        pen.text(x + 18, y, text, 12, INK)


def _shade(share: float) -> str:
    red, green, blue = (round(255 + (part - 255) * share) for part in SILENCE)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _draw_segments(pen: Pen, frames: int, starts: Sequence[int]) -> None:
    """A lane below the plot with borders and numbers of segments, from 1 as for ``--redo``."""
    count = len(starts)
    width = PLOT_WIDTH * (starts[-1] / (count - 1) if count > 1 else frames) / frames
    pen.text(LEFT - 8, SPEECH_BOTTOM + LANE / 2 + 2, "segment", 12, GREY, "rm")
    number_step = round(round_step(max(1, (NUMBER_WIDTH + 6 * len(str(count))) / width)))
    least = round(round_step(max(1, BORDER_WIDTH / width)))
    step = next(step for step in range(least, number_step + 1) if number_step % step == 0)
    for index in range(0, count, step):
        x, has_number = LEFT + PLOT_WIDTH * starts[index] / frames, index % number_step == 0
        if index and width * step > 12:
            for y in range(SPEECH_TOP, SPEECH_BOTTOM, 6):
                pen.line([(x, y), (x, min(y + 3, SPEECH_BOTTOM))], BORDER, 1)
        pen.line([(x, SPEECH_BOTTOM), (x, SPEECH_BOTTOM + LANE / (1 if has_number else 3))], BORDER, 1)
        if has_number and x + 8 * len(str(index + 1)) < LEFT + PLOT_WIDTH:
            pen.text(x + 4, SPEECH_BOTTOM + LANE / 2 + 2, f"{index + 1}", 12, GREY)
    pen.line([(LEFT, SPEECH_BOTTOM), (LEFT + PLOT_WIDTH, SPEECH_BOTTOM)], BORDER, 1)


def _draw_prompts(pen: Pen, frames: int, changes: Sequence[tuple[int, str]]) -> None:
    """A lane below the segments with each prompt from where it begins, as much of it as there is room for."""
    top = SPEECH_BOTTOM + LANE
    pen.text(LEFT - 8, top + LANE / 2, "prompt", 12, GREY, "rm")
    ends = [*(start for start, _ in changes[1:]), frames]
    for place, ((start, prompt), stop) in enumerate(zip(changes, ends, strict=True)):
        left, right = (LEFT + PLOT_WIDTH * frame / frames for frame in (start, stop))
        pen.box((left, top + 2, right - 1, top + LANE - 3), PROMPTS[place % 2])
        text = prompt or "none"
        while text and pen.text_width(text, 12) > right - left - 10:
            text = f"{text[: -2 if text.endswith('…') else -1]}…" if len(text) > 2 else ""
        pen.text(left + 5, top + LANE / 2, text, 12, INK)
