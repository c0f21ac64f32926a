"""What happens when in a video: options of ``hallo3 animate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .option_fields import option


@dataclass(frozen=True, kw_only=True)
class DirectorOptions:
    title = "director"
    about = "What the picture shows when. What is said comes from the recording alone."
    script: Path | None = option(
        "FILE",
        "prompts by time: SRT, WebVTT, lines such as [0:12-0:20] in blue light, or JSON; --prompt at all "
        "other times. A segment has the prompt of its first new frame",
    )
