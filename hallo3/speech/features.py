"""The speech features of a recording, as segments read them, and the windows in which hours are encoded.

In windows, what precedes the transformer layers is exact: normalization, the statistics of the first
convolution, the grid of frames. In every layer a frame then attends to its window instead of the whole
recording; the borders of what each window contributes lie in the middle of the overlaps. Distances are in
docs/decisions/010-speech.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..messages import logger
from ..segments import SILENT, SegmentPlan

ReadFeatures = Callable[[Sequence[int]], Tensor]
"""Contiguous frame indices -> features [len, layers, channels], from memory or files."""


@dataclass(frozen=True, slots=True)
class Speech:
    """The features of a recording and the plan that cuts it into segments. The model gets ``window`` frames
    around each frame, clamped to the padded recording (facts 8)."""

    read: ReadFeatures
    plan: SegmentPlan
    window: int

    def segment(self, index: int) -> Tensor:
        """Windows [1, F, window, layers, channels] of one segment; the first one's prefix is zeros."""
        return self.windows(self.plan[index].slots)

    def windows(self, slots: Sequence[int]) -> Tensor:
        """Windows [1, F, window, layers, channels] of speech frames; zeros where a slot is ``SILENT``."""
        reach = self.window // 2
        offsets, real = range(-reach, reach + 1), [max(slots) if slot == SILENT else slot for slot in slots]
        frames = [min(max(slot + offset, 0), self.plan.padded - 1) for slot in real for offset in offsets]
        first = min(frames)
        features = self.read(range(first, max(frames) + 1))[torch.tensor(frames) - first]
        windows = features.reshape(len(slots), self.window, *features.shape[1:])
        silent = torch.tensor([slot == SILENT for slot in slots])
        return torch.where(silent[:, None, None, None], torch.zeros(()), windows)[None]


def read_from_memory(features: Tensor) -> ReadFeatures:
    """Of features [N, layers, channels]."""
    return lambda frames: features[frames[0] : frames[-1] + 1]


AUTO, EXACT, WINDOWS = "auto", "exact", "windows"
HEARINGS = (AUTO, EXACT, WINDOWS)
EXACT_MINUTES = 60
"""Longest recording that ``AUTO`` encodes exactly: 2 GB of memory; time grows with the square."""
WINDOW_MINUTES, OVERLAP_MINUTES = 60, 10


@dataclass(frozen=True, slots=True)
class Window:
    """Frames ``start`` to ``stop`` attend to frames ``first`` to ``last``."""

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Windows:
    """``frames`` per window, of which ``overlap`` are also in the next."""

    frames: int
    overlap: int

    def over(self, total: int) -> list[Window]:
        """The windows of ``total`` frames: every frame belongs to one. A single window is exact; the last one
        is as long as any other."""
        step = self.frames - self.overlap
        if not 0 <= self.overlap < self.frames:
            raise ValueError(f"windows of {self.frames} frames that overlap by {self.overlap}")
        firsts = [*range(0, max(total - self.frames, 0), step), max(total - self.frames, 0)]
        ends = [min(first + self.frames, total) for first in firsts]
        borders = [0, *((end + first) // 2 for end, first in zip(ends[:-1], firsts[1:], strict=True)), total]
        rows = zip(firsts, ends, pairwise(borders), strict=True)
        return [Window(first, end, *span) for first, end, span in rows]


def choose_windows(hearing: str, plan: SegmentPlan) -> Windows | None:
    """The windows for a recording; None if it is encoded exactly."""
    minute = 60 * plan.config.fps
    if hearing == EXACT or (hearing == AUTO and plan.frames <= EXACT_MINUTES * minute):
        return None
    windows = Windows(WINDOW_MINUTES * minute, OVERLAP_MINUTES * minute)
    return windows if plan.padded > windows.frames else None


def warn_of_windows(windows: Windows | None, plan: SegmentPlan) -> None:
    """Log that long audio is encoded approximately; nothing if ``windows`` is None."""
    if windows is not None:
        minutes, minute = plan.frames / plan.config.fps / 60, 60 * plan.config.fps
        logger.warning(
            f"The recording lasts {minutes:.0f} minutes and is encoded in windows of "
            f"{windows.frames // minute} minutes that overlap by {windows.overlap // minute}. This is an "
            "approximation: features of 90 minutes were 0.3 % of their variation from the exact ones "
            "(built-in model)."
        )
