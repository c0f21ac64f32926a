"""How strongly text and voice count: a guidance strength each, along the steps or along the video
(docs/decisions/020-strengths.md)."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from ..errors import InputError, check_range
from ..messages import logger
from .samplers import CONDITIONAL, MAX_GUIDANCE, TEXT, UNCONDITIONAL, Guidance

SECONDS, PERCENT = "seconds", "percent of the steps"
EXPECTED = (
    "a number such as 2, or points that are joined by lines: over the video in seconds, such as 0:1, 30:1.5, "
    "or over the steps, such as 0%:1, 100%:3.5"
)
MAX_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Curve:
    """``points`` (place, value), joined by straight lines and level outside of them. Of two points at one
    place the later holds from there on. Places are seconds of speech, or percent of the steps."""

    points: tuple[tuple[float, float], ...]
    over: str = SECONDS

    @property
    def constant(self) -> float | None:
        """The value, if there is only one."""
        return self.points[0][1] if len(self.points) == 1 else None

    def at(self, place: float) -> float:
        index = bisect_right([each for each, _ in self.points], place)
        if index in (0, len(self.points)):
            return self.points[max(index - 1, 0)][1]
        (start, before), (end, after) = self.points[index - 1 : index + 1]
        return before + (place - start) / (end - start) * (after - before)

    def jumps(self) -> list[float]:
        """Places with two points."""
        places = [place for place, _ in self.points]
        return [place for place, after in pairwise(places) if place == after]

    def text(self) -> str:
        """As it is written."""
        if self.constant is not None:
            return f"{self.constant:g}"
        unit = "%" * (self.over == PERCENT)
        return ", ".join(f"{place:g}{unit}:{value:g}" for place, value in self.points)


def parse_curve(value: float | str | Curve, what: str) -> Curve:
    """A number, or text such as ``0:1, 30:1.5``; ``what`` names the strength. Raises ``InputError``."""
    if isinstance(value, Curve):
        return value
    text = str(value).strip()
    if ":" not in text:
        return Curve(((0.0, _read_value(text, text, what)),))
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MAX_POINTS:
        _refuse(what, f"{len(parts)} points", f"at most {MAX_POINTS}")
    percent = [part.partition(":")[0].rstrip().endswith("%") for part in parts]
    if len({*percent}) > 1:
        _refuse(what, f"{text}: seconds and percent", "all points in seconds, or all in percent of the steps")
    points = tuple(_read_point(part, what) for part in parts)
    places = [place for place, _ in points]
    for index, place in enumerate(places[1:], 1):
        if place < places[index - 1]:
            _refuse(what, f"{parts[index]} after {parts[index - 1]}", "points in order")
        if places[index : index + 2] == [places[index - 1]] * 2:
            _refuse(what, f"three points at {parts[index].partition(':')[0]}", "at most two at one place")
    if len({strength for _, strength in points}) == 1:
        return Curve(((0.0, points[0][1]),))
    return Curve(points, PERCENT if percent[0] else SECONDS)


def _read_point(part: str, what: str) -> tuple[float, float]:
    place, _, strength = part.partition(":")
    if not part or ":" in strength:
        expected = "a place and a strength, such as 30:1.5; times are in seconds, so 1:30 is 90"
        _refuse(what, part or "an empty point", expected)
    unit = "%" if place.rstrip().endswith("%") else "s"
    number, limit = _read_number(place.strip().removesuffix(unit)), 100.0 if unit == "%" else math.inf
    if number is None or not 0 <= number <= limit or math.isinf(number):
        expected = "0 to 100 percent of the steps" if unit == "%" else "seconds from 0 on"
        _refuse(what, part, f"{expected}, then a colon and the strength")
    return number, _read_value(strength, part, what)


def _read_value(text: str, part: str, what: str) -> float:
    number = _read_number(text)
    if number is None:
        _refuse(what, part or "nothing", EXPECTED)
    check_range(what, number, 0.0, MAX_GUIDANCE)
    return number


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refuse(what: str, found: str, expected: str) -> NoReturn:
    fix = f"write {EXPECTED}"
    raise InputError(f"The {what} cannot be read.", found=found[:200], expected=expected, fix=fix)


@dataclass(frozen=True, slots=True)
class Strengths:
    """Of the text and of the voice."""

    text: Curve
    voice: Curve

    @property
    def branches(self) -> int:
        """The most of any step."""
        text, voice = self.text.constant, self.voice.constant
        if text is not None and voice is not None:
            return len(combine(text, voice).branches)
        if self.text == self.voice or voice == 0.0 or text == 1.0:
            return 2
        return 3

    @property
    def scale(self) -> float | None:
        """Equal constant strengths are a guidance scale."""
        return self.voice.constant if self.text == self.voice else None

    @property
    def by_time(self) -> bool:
        return any(curve.over == SECONDS and curve.constant is None for curve in (self.text, self.voice))

    def at(
        self, step: int, steps: int, seconds: float, *, text: bool = True, limit: float = math.inf
    ) -> Guidance:
        """Of a step in a segment that begins ``seconds`` into the speech, with or without ``text``. The first
        step is at 0 percent, the last at 100; no strength is above ``limit``."""
        share = 100.0 * step / (steps - 1) if steps > 1 else 0.0
        curves = self.text if text else self.voice, self.voice
        return combine(*(min(each.at(share if each.over == PERCENT else seconds), limit) for each in curves))

    def jumps(self, steps: int) -> list[int]:
        """Steps from which on a strength is another, without a line to it."""
        curves = [curve for curve in (self.text, self.voice) if curve.over == PERCENT]
        return [math.ceil(place / 100.0 * (steps - 1)) for curve in curves for place in curve.jumps()]

    def facts(self) -> list[Any]:
        """For a job's key."""
        return [[curve.over, curve.points] for curve in (self.text, self.voice)]

    def describe(self) -> str:
        return f"text strength {self.text.text()}; voice strength {self.voice.text()}"


def combine(text: float, voice: float) -> Guidance:
    """Unconditional + text (text - unconditional) + voice (conditional - text), of as few branches as these
    strengths need: those that would count nothing are not predicted."""
    if text == voice:
        branches, strengths = [UNCONDITIONAL, CONDITIONAL], [voice]
    else:
        branches, strengths = [UNCONDITIONAL, TEXT, CONDITIONAL], [text, voice]
    while strengths and strengths[0] == 1.0:
        del branches[0], strengths[0]
    while strengths and strengths[-1] == 0.0:
        del branches[-1], strengths[-1]
    return Guidance(tuple(branches), tuple(strengths))


def parse_strengths(
    scale: float,
    text_strength: float | str | Curve | None,
    voice_strength: float | str | Curve | None,
    *,
    text: bool,
) -> Strengths:
    """Each is by default the guidance ``scale``; without ``text``, that of the text is the voice's. Raises
    ``InputError``."""
    given = (text_strength, "text strength"), (voice_strength, "voice strength")
    of_text, of_voice = (parse_curve(scale if value is None else value, what) for value, what in given)
    if not text and text_strength is not None:
        logger.warning("the text strength has no effect: there is no prompt")
    return Strengths(of_text if text else of_voice, of_voice)
