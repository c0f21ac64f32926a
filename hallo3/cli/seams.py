"""Where segments of a request end: in pauses of its recording, as it was recorded."""

from __future__ import annotations

from pathlib import Path

from ..config import SegmentConfig
from ..errors import InputError
from ..media.audio import AudioStats, stream_mono
from ..media.loudness import HOLD_AFTER, HOLD_BEFORE, LoudnessMeter, find_silence
from ..messages import logger
from ..segments import FADE_FRAMES, FULL, SegmentPlan, cut_in_pauses
from .options import AnimateOptions
from .session import Session, look_at

MIN_CHAPTER, MAX_CHAPTER = 0.5, 600.0
"""Seconds of a pause in which a chapter can begin."""


def cut_plan(plan: SegmentPlan, options: AnimateOptions, stats: AudioStats, session: Session) -> SegmentPlan:
    """The plan with ``--seams`` and ``--chapters``. Raises ``InputError``; warns if there is no pause."""
    fps, chapters, speech = plan.config.fps, options.chapters, options.speech
    assert speech is not None  # checked before
    if chapters is not None and not MIN_CHAPTER <= chapters <= MAX_CHAPTER:
        raise InputError(
            "There are no such pauses.",
            found=f"--chapters {chapters:g}",
            expected=f"{MIN_CHAPTER:g} to {MAX_CHAPTER:g} seconds",
            fix="choose a number in that range, or remove --chapters",
        )
    recording = *look_at(speech), options.track, plan.config
    silent = session.keep("pauses", recording, lambda: _find_pauses(speech, stats, plan.config))
    held = HOLD_BEFORE + HOLD_AFTER  # frames of a pause that are not counted as silence
    cut = cut_in_pauses(
        plan,
        silent,
        pauses=options.seams != FULL,
        chapters=None if chapters is None else round(chapters * fps) - held,
        fade=0 if options.chapter_join == "cut" else FADE_FRAMES,
    )
    if cut is plan and len(plan) > 1:
        logger.warning("there is no pause in reach of a seam: all segments keep their frames")
    return cut


def _find_pauses(speech: Path, stats: AudioStats, config: SegmentConfig) -> list[bool]:
    """Whether each frame of a recording is silent, as it was recorded."""
    meter = LoudnessMeter(config.sample_rate, config.fps)
    for piece in stream_mono(speech, config.sample_rate, stats):
        meter.add(piece)
    silent: list[bool] = find_silence(meter.levels).tolist()
    return silent
