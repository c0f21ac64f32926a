"""Very long recordings heard in overlapping windows: an approximation for more than three hours.

Everything up to the first layer stays exact: the normalisation of the whole recording, the statistics of the
first convolution, the grid of frames. In every layer a frame then attends to its window alone, not to the
whole recording. Of each window the middle is kept, with the borders in the middle of the overlaps.

Measured (docs/measurements/speech_windows.json), RMS in shares of how much features vary over the recording:
90 minutes in windows of 60, built-in speech encoder: 0.3 %. 4 minutes in windows of one: 6 %, of two: 4 %,
whatever they have in common; the distance is spread evenly, not gathered at borders. An untrained encoder of
wav2vec2-base's shape, whose attention is next to uniform, is 25 % away with windows of two minutes.
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
"""Frame indices -> features [len, layers, channels]; a tensor in memory or a file, nobody can tell."""


@dataclass(frozen=True, slots=True)
class Speech:
    """The features of a recording and the plan that cuts it into segments.

    ``window`` frames around each frame are heard at once, clamped to the padded recording (facts 8).
    """

    read: ReadFeatures
    plan: SegmentPlan
    window: int

    def segment(self, index: int) -> Tensor:
        """Windows [1, F, window, layers, channels] of one segment; the first one's prefix is zeros."""
        slots = self.plan[index].slots
        reach = self.window // 2
        around = range(-reach, reach + 1)
        wanted = [min(max(slot + offset, 0), self.plan.padded - 1) for slot in slots for offset in around]
        first = min(wanted)
        features = self.read(range(first, max(wanted) + 1))
        heard = features[torch.tensor(wanted) - first]
        windows = heard.reshape(len(slots), self.window, *heard.shape[1:])
        silent = torch.tensor([slot == SILENT for slot in slots])
        return torch.where(silent[:, None, None, None], torch.zeros(()), windows)[None]


def in_memory(features: Tensor) -> ReadFeatures:
    """Features [N, layers, channels] held in memory."""
    return lambda frames: features[frames[0] : frames[-1] + 1]


AUTO, EXACT, WINDOWS = "auto", "exact", "windows"
HEARINGS = (AUTO, EXACT, WINDOWS)
EXACT_MINUTES = 180
"""Minutes of a recording that are heard exactly without being asked to. wav2vec2-base attends over so many in
2.7e15 operations: a minute or two of a GPU, a night of a small processor. It grows with the square."""
WINDOW_MINUTES, OVERLAP_MINUTES = 60, 10

DISTANCE = "features of 90 minutes were 0.3 % of their variation from the exact ones (built-in model)."
"""What was measured (docs/decisions/010-speech.md)."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames ``start`` to ``stop`` attend to frames ``first`` to ``last``."""

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of so many ``frames``, of which each has ``overlap`` in common with the next."""

    frames: int
    overlap: int

    def over(self, total: int) -> list[Window]:
        """The windows of so many frames in all; their kept stretches cover them once, in order.

        One window, with nothing lost, if all frames fit in it. The last one is as long as any other.
        """
        step = self.frames - self.overlap
        if not 0 <= self.overlap < self.frames:
            raise ValueError(f"windows of {self.frames} frames that overlap by {self.overlap}")
        firsts = [*range(0, max(total - self.frames, 0), step), max(total - self.frames, 0)]
        ends = [min(first + self.frames, total) for first in firsts]
        borders = [0, *((end + first) // 2 for end, first in zip(ends[:-1], firsts[1:], strict=True)), total]
        return [
            Window(first, end, *kept)
            for first, end, kept in zip(firsts, ends, pairwise(borders), strict=True)
        ]


def whole(total: int) -> list[Window]:
    """One window over everything: nothing is approximated."""
    return [Window(0, total, 0, total)]


def windows_for(hearing: str, plan: SegmentPlan) -> Windows | None:
    """The windows for a recording of that plan, None where it is heard exactly. Raises ``ValueError``."""
    if hearing not in HEARINGS:
        raise ValueError(f"hearing {hearing!r}")
    minute = 60 * plan.config.fps
    if hearing == EXACT or (hearing == AUTO and plan.frames <= EXACT_MINUTES * minute):
        return None
    windows = Windows(WINDOW_MINUTES * minute, OVERLAP_MINUTES * minute)
    return windows if plan.padded > windows.frames else None


def tell(windows: Windows | None, plan: SegmentPlan) -> None:
    """Warns the caller's caller of an approximation; of None there is nothing to tell."""
    if windows is not None:
        minutes, minute = plan.frames / plan.config.fps / 60, 60 * plan.config.fps
        logger.warning(
            f"The recording lasts {minutes:.0f} minutes and is heard in windows of "
            f"{windows.frames // minute} minutes with {windows.overlap // minute} in common. This is an "
            f"approximation: {DISTANCE}"
        )
