"""Gains over time, for what the speech encoder hears: silence muted, quiet and loud passages at one level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

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


class LoudnessMeter:
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


AS_RECORDED, EVENED, MUTED = "as recorded", "evened", "muted"
LEVELS = (AS_RECORDED, EVENED)
SILENCES = (AS_RECORDED, MUTED)
MOST_BOOST = 20.0
"""dB that a passage is raised at most."""
BOOSTED_UNDER, UNTOUCHED_UNDER = 22.0, 32.0
"""dB under the loud passages up to which a passage is raised in full, and from which on not at all: there is
more room than voice in it."""
PASSAGE = 25
"""Frames before, or after, one that are the passage it belongs to: of both, the quieter."""
SYLLABLE = 5
"""Frames to either side whose loudest is not raised above the recording's loud parts: so a loud passage stays
as it is to its end, whatever follows. Gains are averaged over as many."""
LOUD_PASSAGE = 0.95
"""The share of passages that are no louder than those that are left alone."""


@dataclass(frozen=True, slots=True)
class GainCurve:
    """A factor for every sample, linear between ``edges`` [frames + 1], the borders of video frames.

    Where both edges of a frame are 0 or both are 1, every factor in it is that number exactly. A factor is
    known from the sample's place alone: pieces are the whole, bit for bit.
    """

    edges: Tensor
    per_frame: int

    def at(self, start: int, stop: int) -> Tensor:
        """Factors [stop - start]; after the last edge they are its own."""
        places = torch.arange(start, stop)
        frames = places // self.per_frame
        share = (places - frames * self.per_frame).float() / self.per_frame
        last = len(self.edges) - 1
        first, second = self.edges[frames.clamp(max=last)], self.edges[(frames + 1).clamp(max=last)]
        return first + (second - first) * share

    def over(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The pieces [n] of a signal, one after the other from its beginning, times their factors."""
        done = 0
        for piece in pieces:
            yield piece * self.at(done, done + len(piece))
            done += len(piece)


def make_gain_curve(loudness: LoudnessMeter, level: str, silence: str) -> GainCurve | None:
    """The gains that were asked for: one of ``LEVELS`` and one of ``SILENCES``; None where there are none.

    Raises ``ValueError`` for other names.
    """
    if level not in LEVELS or silence not in SILENCES:
        raise ValueError(f"level {level!r}, silence {silence!r}")
    levels = loudness.levels
    edges = torch.ones(len(levels) + 1)
    if level == EVENED:
        edges = edges * _between(evening(levels), torch.minimum)
    if silence == MUTED:
        edges = edges * _between((~silences(levels)).float(), torch.maximum)
    asked = (level, silence) != (AS_RECORDED, AS_RECORDED)
    return GainCurve(edges, loudness.per_frame) if asked else None


def _between(gains: Tensor, chosen: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[frames] -> [frames + 1] edges: at each border one of the two frames that meet there."""
    if not len(gains):
        return torch.ones(1)
    return torch.cat((gains[:1], chosen(gains[:-1], gains[1:]), gains[-1:]))


def evening(levels: Tensor) -> Tensor:
    """Factors [frames] that bring passages to the level of the loud ones, dB ``levels`` [frames] given.

    Quiet passages are raised, by ``MOST_BOOST`` at most; nothing is lowered, and silence stays as it is. One
    gain over all would change nothing: the encoder normalises the whole recording.
    """
    sound, quiet = sounding(levels), silences(levels)
    if not bool(sound.any()):
        return torch.ones_like(levels)
    power, count = torch.where(sound, 10 ** (levels.double() / 10), 0.0), sound.double()
    sides = [_sums(power, *side) / _sums(count, *side) for side in ((PASSAGE, 0), (0, PASSAGE))]
    passage = 10 * torch.fmin(*sides).log10()
    known = passage[sound].sort().values
    under = (float(known[int(LOUD_PASSAGE * (len(known) - 1))]) - passage).clamp(0, UNTOUCHED_UNDER)
    fall = MOST_BOOST * (UNTOUCHED_UNDER - under) / (UNTOUCHED_UNDER - BOOSTED_UNDER)
    room = (loud_level(levels) - _loudest(levels, SYLLABLE)).clamp(min=0)
    boost = torch.minimum(torch.minimum(under, fall), room).clamp(max=MOST_BOOST)
    boost = torch.where(quiet | boost.isnan(), 0.0, boost)
    slow = _sums(boost, SYLLABLE, SYLLABLE) / _sums((~quiet).double(), SYLLABLE, SYLLABLE)
    return torch.where(quiet, 1.0, 10 ** (slow / 20)).float()


def _sums(values: Tensor, before: int, after: int) -> Tensor:
    """Sums [n] over each value, so many before it and so many after it."""
    width = before + 1 + after
    return F.avg_pool1d(F.pad(values, (before, after))[None, None], width, stride=1)[0, 0] * width


def _loudest(levels: Tensor, reach: int) -> Tensor:
    """[n]: the greatest within ``reach`` places of each."""
    return F.max_pool1d(levels[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
