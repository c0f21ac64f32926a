"""Where segments end: in pauses of a recording, as it was recorded."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ..errors import InputError
from ..media.loudness import HOLD_AFTER, HOLD_BEFORE, find_silence
from ..messages import logger
from ..segments import FADE_FRAMES, SegmentPlan, cut_in_pauses

FULL, PAUSES = "full", "pauses"
SEAMS = (FULL, PAUSES)
FADE, CUT = "fade", "cut"
JOINS = (FADE, CUT)
CHAPTER_SECONDS, MIN_CHAPTER, MAX_CHAPTER = 1.5, 0.5, 600.0
"""Of a pause in which a chapter begins: if no number is given, at least and at most."""


def cut_plan(
    plan: SegmentPlan, levels: Tensor, *, seams: str, chapters: float | None, chapter_join: str
) -> SegmentPlan:
    """The plan with ``seams`` in pauses and ``chapters`` at pauses of at least that many seconds, from the
    levels [frames] of its recording in dBFS. Raises ``InputError``; warns if there is no such pause."""
    if chapters is not None and not MIN_CHAPTER <= chapters <= MAX_CHAPTER:
        raise InputError(
            "No chapter can begin at such pauses.",
            found=f"chapters {chapters:g}",
            expected=f"{MIN_CHAPTER:g} to {MAX_CHAPTER:g} seconds",
            fix="choose a number in that range, or leave out chapters",
        )
    held = HOLD_BEFORE + HOLD_AFTER  # frames of a pause that are not counted as silence
    silent = cast("list[bool]", find_silence(levels).tolist())
    cut = cut_in_pauses(
        plan,
        silent,
        pauses=seams != FULL,
        chapters=None if chapters is None else round(chapters * plan.config.fps) - held,
        fade=FADE_FRAMES if chapter_join == FADE else 0,
    )
    if cut is plan and len(plan) > 1:
        logger.warning("there is no pause in reach of a seam: all segments keep their frames")
    return cut
