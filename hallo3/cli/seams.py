"""The part of a recording that a request is about, and where its segments end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..config import Hallo3Config, SegmentConfig
from ..media.audio import AudioStats, stream_mono
from ..media.loudness import LoudnessMeter
from ..segments import SegmentPlan
from ..speech.seams import cut_plan
from .excerpts import use_excerpt
from .options import AnimateOptions
from .session import Session, Spoken, cuts_seams, look_at, names_part, read_spoken


def read_part(
    options: AnimateOptions, config: Hallo3Config, session: Session
) -> tuple[AnimateOptions, tuple[Spoken]]:
    """The options with the part of a recording that they name, and it, with the segments of ``--seams`` and
    ``--chapters``. Raises ``InputError`` and ``AudioError``; warns if there is no pause."""
    if names_part(options):
        options = use_excerpt(options, session)
    recording = read_spoken(options, config, session, options.speech)
    if cuts_seams(options):
        recording = replace(recording, plan=_cut(recording.plan, options, recording.stats, session))
    return options, (recording,)


def _cut(plan: SegmentPlan, options: AnimateOptions, stats: AudioStats, session: Session) -> SegmentPlan:
    speech = options.speech
    assert speech is not None  # checked before
    recording = *look_at(speech), options.track, plan.config
    levels = session.keep("levels", recording, lambda: _measure_levels(speech, stats, plan.config))
    chapters, join = options.chapters, options.chapter_join
    return cut_plan(plan, levels, seams=options.seams, chapters=chapters, chapter_join=join)


def _measure_levels(speech: Path, stats: AudioStats, config: SegmentConfig) -> Tensor:
    """Of every frame of a recording, as it was recorded."""
    meter = LoudnessMeter(config.sample_rate, config.fps)
    for piece in stream_mono(speech, config.sample_rate, stats):
        meter.add(piece)
    return meter.levels
