"""A picture of a recording as it is listened to: loudness, silence, and where segments meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .chart import GREY, GRID, INK, NARROWEST, SHORT, TWICE, Box, Pen, clock, time_step
from .gains import GainCurve
from .loudness import FAINTEST, Loudness, loud_level, silences

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
    loudness: Loudness, frames_a_segment: int, *, gains: GainCurve | None = None, width: int = 960
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


def _head(pen: Pen, loudness: Loudness, levels: Tensor, frames_a_segment: int) -> None:
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
    pen: Pen, loudness: Loudness, levels: Tensor, gains: GainCurve | None, box: Box, ticks: Sequence[float]
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
