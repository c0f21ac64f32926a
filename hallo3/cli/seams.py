"""Where segments of a request end."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..config import SegmentConfig
from ..media.audio import AudioStats, stream_mono
from ..media.loudness import LoudnessMeter
from ..segments import SegmentPlan
from ..speech.seams import cut_plan
from .options import AnimateOptions
from .session import Session, look_at


def cut_request(
    plan: SegmentPlan, options: AnimateOptions, stats: AudioStats, session: Session
) -> SegmentPlan:
    """The plan with ``--seams`` and ``--chapters``. Raises ``InputError``; warns if there is no pause."""
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
