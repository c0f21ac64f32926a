"""How long segments took on this machine and how large they came out, for the next plan to tell."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..storage.whole import write_whole

FILE = "pace.json"
LARGEST = 1 << 20
MOST = 200
"""Kinds of run that are remembered; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a kind of run: seconds a segment, and bytes of its encoded piece a frame."""

    seconds: float
    frame_bytes: float


def pace_of(jobs: Path, kind: str) -> Pace | None:
    """What earlier runs of a kind took; None if there were none."""
    with suppress(TypeError, KeyError, ValueError, OverflowError):
        said = _known(jobs)[kind]
        pace = Pace(float(said["seconds"]), float(said["frame_bytes"]))
        if 0 < pace.seconds < 1e7 and 0 < pace.frame_bytes < 1e9:
            return pace
    return None


def remember(jobs: Path, kind: str, pace: Pace) -> None:
    """Keep what a run took. Where it cannot be kept, the next plan knows less, and nothing else."""
    known = _known(jobs)
    known.pop(kind, None)
    known[kind] = {"seconds": pace.seconds, "frame_bytes": pace.frame_bytes}
    recent = dict(list(known.items())[-MOST:])
    with suppress(OSError):
        write_whole(jobs / FILE, [json.dumps(recent).encode()])


def _known(jobs: Path) -> dict[str, Any]:
    try:
        with (jobs / FILE).open("rb") as file:
            found: object = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
