"""Speech features behind one question: what does segment i hear?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
