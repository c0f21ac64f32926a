"""What the commands of one process share: files that were read and models that are loaded, for as long as the
next command uses the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

from ..checkpoints.load import read_model_config
from ..checkpoints.locate import ModelFolder
from ..config import Hallo3Config
from ..media.audio import AudioStats, measure_recording
from ..segments import SegmentPlan, plan_segments
from ..speech.seams import FULL
from ..storage.hashing import hash_file, identify
from .options import AnimateOptions
from .progress import WorkClock

T = TypeVar("T")
MODELS, IDENTITY, MEMORY_PLAN = "models", "identity", "memory plan"
MAX_RECORDINGS = 20_000
"""Whose lengths a session remembers."""


class Session:
    def __init__(self) -> None:
        self._kept = dict[str, dict[Hashable, Any]]()

    @cached_property
    def clock(self) -> WorkClock:
        return WorkClock()

    def keep(self, kind: str, key: Hashable, make: Callable[[], T], *, most: int = 1) -> T:
        """The value of this kind that was made for an equal ``key``, if it is one of the last ``most``."""
        kept = self._kept.setdefault(kind, {})
        if key not in kept:
            while len(kept) >= most:  # before its successor needs the memory
                del kept[next(iter(kept))]
            kept[key] = make()
        return cast(T, kept[key])

    def read_config(self, files: ModelFolder) -> Hallo3Config:
        """The model's configuration, read again only if its files were replaced."""
        source = files.open("transformer")
        return self.keep("config", source, lambda: read_model_config(source))

    def drop(self, *kinds: str) -> None:
        for kind in kinds:
            self._kept.pop(kind, None)


def look_at(path: Path | None) -> tuple[object, ...]:
    """What changes when a file does, or is another; of one that is missing, that it is."""
    try:
        return () if path is None else (path, *identify(path))
    except OSError:
        return (path,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spoken:
    """A recording: ``samples`` of it are encoded, at the encoder's rate; ``hash`` is the file's, of a run
    that is not only planned."""

    path: Path
    stats: AudioStats
    samples: int
    plan: SegmentPlan
    hash: str


def cuts_seams(options: AnimateOptions) -> bool:
    """Whether segments end elsewhere than when they are full."""
    return (options.seams != FULL or options.chapters is not None) and not options.trial


def read_spoken(options: AnimateOptions, config: Hallo3Config, session: Session, path: Path | None) -> Spoken:
    """Measure a recording. Raises ``AudioError``."""
    assert path is not None  # checked when the options were read
    quick = options.plan and options.speech_chart is None and not cuts_seams(options)
    segment = config.segment
    read = partial(measure_recording, path, options.track, quick=quick)
    recording = *look_at(path), options.track, quick
    stats = session.keep("recording", recording, read, most=MAX_RECORDINGS)
    samples = stats.length_at(segment.sample_rate)
    if options.trial:  # the first segment
        samples = min(samples, segment.new_frames * segment.sample_rate // segment.fps)
    plan = plan_segments(samples, segment)
    return Spoken(
        path=path, stats=stats, samples=samples, plan=plan, hash="" if options.plan else hash_file(path)
    )


def names_part(options: AnimateOptions) -> bool:
    """Whether a recording is not spoken from its beginning to its end, or has silence around it."""
    part = options.from_time, options.to_time, options.silence_before, options.silence_after
    return part != (None, None, 0.0, 0.0)


def has_voices(options: AnimateOptions) -> bool:
    """Whether several people speak, or one whose face has a number."""
    numbered = any(number for number, _ in options.voices)
    return options.speakers is not None or len(options.voices) > 1 or numbered
