"""The plan of a video in segments: the speech frames of each segment, and which of its frames are new.

Golden ``extrapolation_loop`` has the original's bookkeeping. We plan ``ceil(n / new)`` segments for the
recording's frames; the original plans for its padded frames and discards the rest (facts 9).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from math import gcd

from .config import SegmentConfig
from .errors import AudioError
from .geometry import PATCH, SPACE_FACTOR

SILENT = -1
"""Slot of the first segment's motion frames: an all-zero window."""
TRIAL_FRAMES, TRIAL_PIXELS = 9, 64
"""Most frames, and least pixels of the short side, of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """``slots`` has a speech frame (or ``SILENT``) per frame; ``keep`` are the frames shown. An ``afresh``
    segment begins from the portrait, as the first of a video does."""

    index: int
    slots: tuple[int, ...]
    keep: slice
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """All segments of a recording with ``frames`` video frames; each is computed when it is read.

    ``seams`` are the frames at which segments after the first begin; none: each keeps all of its new frames.
    At those that are ``chapters``, too, the video begins afresh, after ``fade`` frames of cross-fade."""

    frames: int
    config: SegmentConfig
    seams: tuple[int, ...] = ()
    chapters: frozenset[int] = frozenset()
    fade: int = 0

    @property
    def padded(self) -> int:
        """Speech frames after zero padding: ``frames`` rounded up to whole segments (facts 8)."""
        return -(-self.frames // self.config.frames) * self.config.frames

    def __len__(self) -> int:
        return len(self.seams) + 1 if self.seams else -(-self.frames // self.config.new_frames)

    def first(self, index: int) -> int:
        """The video frame at which a segment's new frames begin."""
        return self.seams[index - 1] if self.seams and index else index * self.config.new_frames

    @property
    def starts(self) -> list[int]:
        """``first`` of every segment."""
        return [self.first(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> Segment:
        if not 0 <= index < len(self):
            raise IndexError(index)
        new, motion = self.config.new_frames, self.config.motion_frames
        first, stop = self.first(index), self.first(index + 1) if index + 1 < len(self) else self.frames
        afresh, known = first in self.chapters, min(first + new, self.padded)
        slots = [
            SILENT if frame < 0 or (afresh and frame < first) else frame
            for frame in range(first - motion, known)
        ]
        slots += slots[-1:] * (self.config.frames - len(slots))
        keep = slice(motion, motion + stop - first)
        return Segment(index=index, slots=tuple(slots), keep=keep, afresh=afresh)

    def __iter__(self) -> Iterator[Segment]:
        return (self[index] for index in range(len(self)))


def frame_count(samples: int, sample_rate: int, fps: int) -> int:
    """Video frames of a recording: ``ceil(samples * fps / rate)`` in integers. Raises ``AudioError`` below
    one.

    The original's float expression gives one frame more for rare lengths (docs/numerics.md).
    """
    if samples * fps < sample_rate:
        raise AudioError(
            "The recording is too short to animate.",
            found=f"{samples} samples = {samples / sample_rate:.4f} s",
            expected=f"at least one video frame, {1 / fps:.2f} s",
            fix="use a longer recording",
        )
    return -(-samples * fps // sample_rate)


def plan_segments(samples: int, config: SegmentConfig) -> SegmentPlan:
    """``samples`` at the encoder's sample rate."""
    return SegmentPlan(frame_count(samples, config.sample_rate, config.fps), config)


FADE_FRAMES = 5
"""Of the cross-fade to a chapter."""


def cut_in_pauses(
    plan: SegmentPlan, silent: Sequence[bool], *, pauses: bool, chapters: int | None = None, fade: int = 0
) -> SegmentPlan:
    """The plan with seams in silence, from whether each frame is ``silent``.

    With ``pauses`` a segment ends at the last frame within its reach at which the next begins in silence, but
    keeps at least half of its new frames; where there is none it keeps them all. ``chapters`` begin in the
    middle of silence of at least that many frames inside the recording.
    """
    new, frames = plan.config.new_frames, plan.frames
    least, seams, begun = -(-new // 2), list[int](), list[int]()
    if chapters is not None:
        runs = (sum(1 for _ in run) for _, run in groupby(silent[:frames]))
        edges = [0, *accumulate(runs)]
        begun = [
            (start + stop) // 2
            for start, stop in pairwise(edges)
            if start > 0 and stop < frames and silent[start] and stop - start >= max(2, chapters)
        ]
    for start, stop in pairwise([0, *begun, frames]):
        seams += [start] * (start > 0)
        while stop - start > new:
            within = range(start + new, start + least - 1, -1)
            start = next((at for at in within if pauses and silent[at]), start + new)
            seams.append(start)
    if seams == [*range(new, frames, new)] and not begun:
        return plan
    return replace(plan, seams=tuple(seams), chapters=frozenset(begun), fade=fade)


def trial_segment(own: SegmentConfig) -> SegmentConfig:
    """The segment of a trial: few frames on a small canvas of the same shape, never larger than the model's
    ``own``."""
    step = SPACE_FACTOR * PATCH
    largest = gcd(own.height // step, own.width // step)
    smallest = min(own.height, own.width) // largest
    times = min(-(-TRIAL_PIXELS // smallest), largest)
    height, width = (side // largest * times for side in (own.height, own.width))
    return replace(own, frames=min(own.frames, TRIAL_FRAMES), height=height, width=width)


PROGRAM_BYTES = 640 << 20  # of RAM, for Python, torch and the libraries
FRAME_COPIES = 4  # how often a segment's frames are in RAM at the same time, in float32


def base_ram(config: SegmentConfig) -> int:
    """Bytes of RAM that a run takes beside its networks."""
    return PROGRAM_BYTES + FRAME_COPIES * 3 * 4 * config.frames * config.height * config.width
