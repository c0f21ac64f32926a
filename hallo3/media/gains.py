"""Gains over time, for what the speech encoder hears: silence muted, quiet and loud passages at one level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .loudness import Loudness, loud_level, silences, sounding

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


def gain_curve(loudness: Loudness, level: str, silence: str) -> GainCurve | None:
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
