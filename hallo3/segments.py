"""The long-video plan in pure integers: which speech frames a segment hears, which frames it keeps.

Golden ``extrapolation_loop`` holds the original's bookkeeping. We plan ``ceil(n / new)`` segments from
the real frames; the original plans from its padded ones and discards what is left over (facts 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .config import SegmentConfig
from .errors import AudioError

SILENT = -1
"""Slot value of the first segment's prefix: an all-zero window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch to sample. ``slots`` has a speech frame (or ``SILENT``) for every frame."""

    index: int
    slots: tuple[int, ...]
    keep: slice

    @property
    def kept_frames(self) -> int:
        """Frames this segment adds to the video."""
        return self.keep.stop - self.keep.start


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """All segments of a recording, made on access: a long plan costs nothing.

    ``frames`` are real video frames, ``padded`` the speech frames after the encoder's zero padding.
    """

    frames: int
    config: SegmentConfig

    @property
    def padded(self) -> int:
        """Speech frames the encoder makes: ``frames`` rounded up to whole segments (facts 8)."""
        return -(-self.frames // self.config.frames) * self.config.frames

    def __len__(self) -> int:
        return -(-self.frames // self.config.new_frames)

    def __getitem__(self, index: int) -> Segment:
        if not 0 <= index < len(self):
            raise IndexError(index)
        new, motion = self.config.new_frames, self.config.motion_frames
        first = index * new
        heard = [max(frame, SILENT) for frame in range(first - motion, min(first + new, self.padded))]
        heard += heard[-1:] * (self.config.frames - len(heard))
        kept = min(new, self.frames - first)
        return Segment(index=index, slots=tuple(heard), keep=slice(motion, motion + kept))

    def __iter__(self) -> Iterator[Segment]:
        return (self[index] for index in range(len(self)))


def frame_count(samples: int, sample_rate: int, fps: int) -> int:
    """Video frames of a recording: ``ceil(samples * fps / rate)`` in exact integers.

    The original's float expression gives one frame more for rare lengths (docs/numerics.md). Raises
    ``AudioError`` for less than one frame.
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
    """The plan for a recording of so many samples at the encoder's sample rate."""
    return SegmentPlan(frame_count(samples, config.sample_rate, config.fps), config)
