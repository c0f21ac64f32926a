"""Which segments of a video to render again: by their numbers, or by a stretch of time."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ..errors import InputError
from ..segments import SegmentPlan
from ..units import format_clock
from .job import Job
from .segment_file import MAX_TAKE

NUMBER, TIME = r"\d{1,9}", r"(?:\d{1,3}:)?\d{1,3}:\d{1,2}(?:\.\d{1,6})?|\d{1,9}(?:\.\d{1,6})?s?"
"""A segment; seconds such as ``12.5s``, or ``0:12.5``, ``1:02:03``."""


@dataclass(frozen=True, slots=True)
class Redo:
    """Render segments ``first`` to ``last``, counted from 1, again as take number ``take``."""

    first: int
    last: int
    take: int

    def includes(self, index: int) -> bool:
        """``index`` counts from 0."""
        return self.first <= index + 1 <= self.last


NO_REDO = Redo(1, 0, 0)


def segment_ends(plan: SegmentPlan, parent: Job | None) -> list[float]:
    """Seconds at which each segment of a video ends, those of the video that it continues first."""
    before = map(parent.finished, range(parent.manifest.segments)) if parent else ()
    frames = [record.frames for record in before if record is not None] + [
        segment.keep.stop - segment.keep.start for segment in plan
    ]
    return [end / plan.config.fps for end in accumulate(frames)]


def parse_redo(
    text: str, take: int, ends: Sequence[float], inherited: int = 0, cues: Sequence[tuple[float, float]] = ()
) -> Redo:
    """Segments ``14-17``, ``14`` or ``14-`` (to the end), counted from 1, or the segments that a stretch of
    time touches: ``12.5s-20s``, ``0:12-0:20``, ``12s`` or ``12s-``, or that of cues of a script: ``cue 3``,
    ``cue 3-5``. NO_REDO for an empty text.

    ``ends`` as of :func:`segment_ends`; ``cues`` are from a second of the new speech to another. Raises
    ``InputError`` for anything else, for segments that the video does not have, and for the ``inherited``
    ones of the video that it continues.
    """
    if not (text := "".join(text.split()).replace("\N{EN DASH}", "-")):
        return NO_REDO
    segments, start = len(ends), ends[inherited - 1] if inherited else 0.0
    if (named := re.fullmatch(rf"cues?({NUMBER})(?:-({NUMBER}))?", text)) is not None:
        since, until = _find_cues(text, int(named[1]), int(named[2] or named[1]), cues)
        text = f"{start + since:.6f}s-{min(start + until, ends[-1]):.6f}s"
    expected = (
        f"a segment or a range such as 2-3 of {inherited + 1} to {segments}, or a time or a range such as "
        f"{format_clock(start)}-{format_clock(ends[-1])} of {start:.2f} s to {ends[-1]:.2f} s; a take from 1"
    )
    by_number = re.fullmatch(f"({NUMBER})(?:(-)({NUMBER})?)?", text)
    by_time = re.fullmatch(f"({TIME})(?:(-)({TIME})?)?", text) if re.search("[s:]", text) else None
    if by_number is None and by_time is None:
        raise InputError(
            "`redo` cannot be read.",
            found=repr(text),
            expected=expected,
            fix="give segments, or a time with its unit such as 12.5s",
        )
    if by_number is not None:
        first = int(by_number[1])
        last = int(by_number[3]) if by_number[3] else segments if by_number[2] else first
    else:
        begin, to, end = by_time.groups() if by_time else ("", None, None)
        since = _seconds(begin)
        until = _seconds(end) if end else ends[-1] if to else since
        first = bisect_right(ends, since) + 1
        last = segments + 1 if until > ends[-1] else max(first, bisect_left(ends, until) + 1)
        last = 0 if until < since else last
    if not inherited < first <= last <= segments or not 1 <= take <= MAX_TAKE:
        raise InputError(
            "`redo` names segments that this video does not have."
            if 1 <= take <= MAX_TAKE
            else "The take is invalid.",
            found=f"{text!r}, take {take}",
            expected=expected,
            fix="choose segments that the video has",
        )
    return Redo(first, last, take)


def _find_cues(text: str, first: int, last: int, cues: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The seconds from the first to the last of some cues, counted from 1."""
    if not 1 <= first <= last <= len(cues):
        raise InputError(
            "`redo` names cues that the script does not have.",
            found=repr(text),
            expected=f"cues from 1 to {len(cues)}" if cues else "a script with cues",
            fix="choose cues that the script has, or give segments or a time",
        )
    return cues[first - 1][0], cues[last - 1][1]


def _seconds(time: str) -> float:
    """Of ``12.5s``, ``12``, ``0:12.5`` or ``1:02:03``."""
    seconds = 0.0
    for part in time.removesuffix("s").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
