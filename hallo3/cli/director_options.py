"""What happens when in a video: options of ``hallo3 animate``."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from ..speech.seams import CHAPTER_SECONDS, FADE, FULL, JOINS, SEAMS
from .option_fields import choice, option


def parse_time(text: str) -> float:
    """Seconds of ``12.5``, ``0:12.5`` or ``1:02:03``."""
    if re.fullmatch(r"(?:\d{1,3}:){0,2}\d{1,6}(?:\.\d{1,6})?", text) is None:
        raise ArgumentTypeError(f"{text!r} is no time such as 12.5 or 0:12")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


@dataclass(frozen=True, kw_only=True)
class DirectorOptions:
    title = "director"
    about = "What the picture shows when. What is said comes from the recording alone."
    from_time: float | None = option(
        "TIME",
        "use the recording from here on, such as 12.5 or 0:12; all other times are then those of the video",
        short="--from",
        type=parse_time,
    )
    to_time: float | None = option("TIME", "use the recording until here", short="--to", type=parse_time)
    silence_before: float = option("SECONDS", "silence before the speech (default: 0)", default=0.0)
    silence_after: float = option("SECONDS", "silence after the speech (default: 0)", default=0.0)
    script: Path | None = option(
        "FILE",
        "prompts by time: SRT, WebVTT, lines such as [0:12-0:20] in blue light, or JSON; --prompt at all "
        "other times. A segment has the prompt of its first new frame",
    )
    seams: str = choice(
        SEAMS,
        "pauses: a segment ends where the next begins in silence, if there is a pause in its second half; "
        "more segments, which --plan counts (default: full)",
        default=FULL,
    )
    chapters: float | None = option(
        "SECONDS",
        "begin afresh from the portrait in the middle of pauses of at least this length, against drift "
        f"(without a number: {CHAPTER_SECONDS:g}; default: off)",
        nargs="?",
        const=CHAPTER_SECONDS,
    )
    chapter_join: str = choice(
        JOINS, "how a chapter begins: a cross-fade of 0.2 s, or a cut (default: fade)", default=FADE
    )
