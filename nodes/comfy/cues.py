"""Prompts by time in conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ...hallo3.script import Cue

CUE = "hallo3_cue"
"""Key of a conditioning entry's :class:`Cue`, from Hallo3 Script: the time in which it is in force."""
T = TypeVar("T")


def choose_entries(
    entries: Sequence[T], extras: Sequence[Mapping[str, Any]], frame: int, fps: int
) -> list[T]:
    """Those in force at a frame: with a cue that covers it, or else without a cue."""
    cues: list[Cue | None] = [each.get(CUE) for each in extras]
    on = [entry for entry, cue in zip(entries, cues, strict=True) if cue and cue.covers(frame, fps)]
    return on or [entry for entry, cue in zip(entries, cues, strict=True) if cue is None]
