"""How loud a recording is in every video frame, what in it is silence, and gains that follow from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FAINTEST = -200.0
"""dBFS of digital silence, and of what is fainter."""
SILENT_UNDER = 35.0
"""dB under a recording's loud parts, from which on a frame is silent."""
SILENT_BELOW = -90.0
"""dBFS below which a frame is silent whatever else there is: no louder than the rounding of 16-bit sound."""
LOUD, LOUDEST, SPREAD = 0.95, 0.999, 40.0
"""Loud is that share of all frames that are within so many dB of the loudest. What only one frame in a
thousand reaches, as a click does, is not the loudest."""
HOLD_BEFORE, HOLD_AFTER = 3, 5
"""Frames before and after a sound that are not silent: words begin with a breath and fade away."""


class Loudness:
    """The level of every video frame of a mono signal, gathered piece by piece; samples are not kept."""

    def __init__(self, sample_rate: int, fps: int) -> None:
        self.sample_rate, self.fps = sample_rate, fps
        self._rest = torch.zeros(0)
        self._levels: list[Tensor] = []
        self._peaks: list[Tensor] = []

    @property
    def per_frame(self) -> int:
        """Samples of a video frame."""
        return self.sample_rate // self.fps

    def add(self, samples: Tensor) -> None:
        """The next samples [n] of the signal, -1..1 being full scale."""
        held = torch.cat((self._rest, samples.float()))
        whole = len(held) // self.per_frame * self.per_frame
        if whole:
            frames = held[:whole].reshape(-1, self.per_frame)
            self._levels.append(_level(frames))
            self._peaks.append(frames.abs().amax(dim=1))
        self._rest = held[whole:].clone()

    @property
    def levels(self) -> Tensor:
        """[frames] float32, dBFS: the RMS of each frame about its own mean, so that an offset is no sound.

        The last frame may be a part of one. ``FAINTEST`` is the least.
        """
        rest = [_level(self._rest[None])] if len(self._rest) else []
        return torch.cat([torch.zeros(0), *self._levels, *rest])

    @property
    def peaks(self) -> Tensor:
        """[frames] float32: the greatest magnitude in each frame, 1 being full scale."""
        rest = [self._rest.abs().amax(dim=0, keepdim=True)] if len(self._rest) else []
        return torch.cat([torch.zeros(0), *self._peaks, *rest])


def _level(frames: Tensor) -> Tensor:
    deviation = frames.double().std(dim=1, correction=0).clamp(min=10 ** (FAINTEST / 20))
    return (20 * deviation.log10()).float()


def loud_level(levels: Tensor) -> float:
    """dBFS of a recording's loud parts: what 19 of 20 frames with sound in them do not exceed.

    Long pauses and single clicks do not change it. ``FAINTEST`` for no frames.
    """
    if not len(levels):
        return FAINTEST
    loudest = _share(levels, LOUDEST)
    return _share(levels[(levels >= loudest - SPREAD) & (levels <= loudest)], LOUD)


def _share(levels: Tensor, share: float) -> float:
    """The level that this share of them does not exceed; for few of them, the greatest."""
    return float(levels.sort().values[math.ceil(share * len(levels)) - 1])


def sounding(levels: Tensor) -> Tensor:
    """[frames] bool: which are loud enough to be sound, by themselves.

    A frame is silent that is ``SILENT_UNDER`` dB under the recording's loud parts. There is no fixed level
    but the very low ``SILENT_BELOW``: a recording that was made too quietly is heard like any other.
    """
    return levels >= max(loud_level(levels) - SILENT_UNDER, SILENT_BELOW)


def silences(levels: Tensor) -> Tensor:
    """[frames] bool: which are silence, no sound within ``HOLD_BEFORE`` and ``HOLD_AFTER`` frames of them."""
    sound = sounding(levels).float()[None, None]
    if not len(levels):
        return torch.zeros(0, dtype=torch.bool)
    reach = F.pad(sound, (HOLD_AFTER, HOLD_BEFORE))
    return F.max_pool1d(reach, HOLD_BEFORE + HOLD_AFTER + 1, stride=1)[0, 0] == 0
