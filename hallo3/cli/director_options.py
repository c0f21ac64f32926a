"""What happens when in a video: options of ``hallo3 animate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..speech.seams import CHAPTER_SECONDS, FADE, FULL, JOINS, SEAMS
from .option_fields import choice, option


@dataclass(frozen=True, kw_only=True)
class DirectorOptions:
    title = "director"
    about = "What the picture shows when. What is said comes from the recording alone."
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
