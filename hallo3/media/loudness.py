"""Loudness per video frame, silence, and gains over time for what the speech encoder gets.

librosa's ``feature.rms`` measures whole arrays about zero; a recording of hours is a stream here, and a DC
offset is not loudness. Offset-free RMS in librosa would replace ``LoudnessMeter``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_DBFS = -200.0
"""Level of digital silence and of everything below."""
SILENCE_UNDER_LOUD_DB = 35.0
"""A frame this much below the recording's loud parts is silent."""
SILENCE_DBFS = -90.0
"""Below this a frame is silent in any recording: the rounding of 16-bit samples."""
LOUD_SHARE, CLICK_SHARE, LOUD_RANGE_DB = 0.95, 0.999, 40.0
"""Loud is the level that 95 % of frames within 40 dB of the loudest do not exceed. What only one frame in a
thousand reaches, as a click does, is not the loudest."""
HOLD_BEFORE, HOLD_AFTER = 3, 5
"""Frames before and after sound that are not silent: words begin with a breath and fade."""

AS_RECORDED, EVENED, MUTED = "as recorded", "evened", "muted"
LEVELS = (AS_RECORDED, EVENED)
SILENCES = (AS_RECORDED, MUTED)
MAX_BOOST_DB = 20.0
FULL_BOOST_DB, NO_BOOST_DB = 22.0, 32.0
"""A passage this far below the loud ones is still raised in full, or not at all: it is room, not voice."""
PASSAGE_FRAMES = 25
"""A frame's passage is the quieter of this many frames before it and after it."""
SYLLABLE_FRAMES = 5
"""The loudest of this many frames to either side is not raised above the loud parts, so that a loud passage
stays as it is to its end. Gains are averaged over as many."""
LOUD_PASSAGE_SHARE = 0.95


class LoudnessMeter:
    """The level of every video frame of a mono signal, measured piece by piece; samples are not kept."""

    def __init__(self, sample_rate: int, fps: int) -> None:
        self.sample_rate, self.fps = sample_rate, fps
        self.samples_per_frame = sample_rate // fps
        self._rest = torch.zeros(0)
        self._levels: list[Tensor] = []
        self._peaks: list[Tensor] = []

    def add(self, samples: Tensor) -> None:
        """The next samples [n] of the signal; full scale is -1..1."""
        samples = torch.cat((self._rest, samples.float()))
        whole = len(samples) // self.samples_per_frame * self.samples_per_frame
        if whole:
            frames = samples[:whole].reshape(-1, self.samples_per_frame)
            self._levels.append(_rms_dbfs(frames))
            self._peaks.append(frames.abs().amax(dim=1))
        self._rest = samples[whole:].clone()

    @property
    def levels(self) -> Tensor:
        """[frames] float32, dBFS: the RMS of each frame about its own mean; the last frame may be partial."""
        rest = [_rms_dbfs(self._rest[None])] if len(self._rest) else []
        return torch.cat([torch.zeros(0), *self._levels, *rest])

    @property
    def peaks(self) -> Tensor:
        """[frames] float32: the largest magnitude in each frame."""
        rest = [self._rest.abs().amax(dim=0, keepdim=True)] if len(self._rest) else []
        return torch.cat([torch.zeros(0), *self._peaks, *rest])


def _rms_dbfs(frames: Tensor) -> Tensor:
    deviation = frames.double().std(dim=1, correction=0).clamp(min=10 ** (MIN_DBFS / 20))
    return (20 * deviation.log10()).float()


def loud_level(levels: Tensor) -> float:
    """dBFS of loud parts, unaffected by long pauses and single clicks; ``MIN_DBFS`` if empty."""
    if not len(levels):
        return MIN_DBFS
    loudest = _quantile(levels, CLICK_SHARE)
    return _quantile(levels[(levels >= loudest - LOUD_RANGE_DB) & (levels <= loudest)], LOUD_SHARE)


def _quantile(levels: Tensor, share: float) -> float:
    """torch.quantile rejects more than 16 million values and would interpolate."""
    return float(levels.sort().values[math.ceil(share * len(levels)) - 1])


def find_sound(levels: Tensor) -> Tensor:
    """[frames] bool: loud enough, relative to the recording: one that was made too quietly has sound too."""
    return levels >= max(loud_level(levels) - SILENCE_UNDER_LOUD_DB, SILENCE_DBFS)


def find_silence(levels: Tensor) -> Tensor:
    """[frames] bool: no sound from ``HOLD_AFTER`` frames before to ``HOLD_BEFORE`` frames after."""
    if not len(levels):
        return torch.zeros(0, dtype=torch.bool)
    sound = F.pad(find_sound(levels).float()[None, None], (HOLD_AFTER, HOLD_BEFORE))
    return F.max_pool1d(sound, HOLD_BEFORE + HOLD_AFTER + 1, stride=1)[0, 0] == 0


@dataclass(frozen=True, slots=True)
class GainCurve:
    """A factor for every sample, linear between ``edges`` [frames + 1], the borders of video frames. Where
    both edges of a frame are 0 or both are 1, every factor in it is exactly that. A factor depends on the
    sample's position alone: pieces equal the whole, bit for bit."""

    edges: Tensor
    samples_per_frame: int

    def at(self, start: int, stop: int) -> Tensor:
        """Factors [stop - start]; constant after the last edge."""
        samples = torch.arange(start, stop)
        frames = samples // self.samples_per_frame
        share = (samples - frames * self.samples_per_frame).float() / self.samples_per_frame
        last = len(self.edges) - 1
        left, right = self.edges[frames.clamp(max=last)], self.edges[(frames + 1).clamp(max=last)]
        return left + (right - left) * share

    def over(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces [n] of a signal, from its beginning, with their gains applied."""
        position = 0
        for piece in pieces:
            yield piece * self.at(position, position + len(piece))
            position += len(piece)


def make_gain_curve(meter: LoudnessMeter, level: str, silence: str) -> GainCurve | None:
    """The gains for one of ``LEVELS`` and one of ``SILENCES``; None for as recorded."""
    if (level, silence) == (AS_RECORDED, AS_RECORDED):
        return None
    levels = meter.levels
    edges = torch.ones(len(levels) + 1)
    if level == EVENED:
        edges = edges * _gains_at_edges(even_levels(levels), torch.minimum)
    if silence == MUTED:
        edges = edges * _gains_at_edges((~find_silence(levels)).float(), torch.maximum)
    return GainCurve(edges, meter.samples_per_frame)


def _gains_at_edges(gains: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[frames] -> [frames + 1]: at each border, one of the two frames that meet there."""
    if not len(gains):
        return torch.ones(1)
    return torch.cat((gains[:1], choose(gains[:-1], gains[1:]), gains[-1:]))


def even_levels(levels: Tensor) -> Tensor:
    """Factors [frames] that bring quiet passages to the level of the loud ones, from dBFS [frames]. Nothing
    is lowered, and silence stays as it is. A single gain would change nothing: the encoder normalizes."""
    sound, quiet = find_sound(levels), find_silence(levels)
    if not bool(sound.any()):
        return torch.ones_like(levels)
    power, count = torch.where(sound, 10 ** (levels.double() / 10), 0.0), sound.double()
    sides = ((PASSAGE_FRAMES, 0), (0, PASSAGE_FRAMES))
    passage = 10 * torch.fmin(*(_window_sums(power, *s) / _window_sums(count, *s) for s in sides)).log10()
    known = passage[sound].sort().values
    loud_passage = float(known[int(LOUD_PASSAGE_SHARE * (len(known) - 1))])
    below = (loud_passage - passage).clamp(0, NO_BOOST_DB)
    fade = MAX_BOOST_DB * (NO_BOOST_DB - below) / (NO_BOOST_DB - FULL_BOOST_DB)
    reach = SYLLABLE_FRAMES
    loudest = F.max_pool1d(levels[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    headroom = (loud_level(levels) - loudest).clamp(min=0)
    boost = torch.minimum(torch.minimum(below, fade), headroom).clamp(max=MAX_BOOST_DB)
    boost = torch.where(quiet | boost.isnan(), 0.0, boost)
    smooth = _window_sums(boost, reach, reach) / _window_sums((~quiet).double(), reach, reach)
    return torch.where(quiet, 1.0, 10 ** (smooth / 20)).float()


def _window_sums(values: Tensor, before: int, after: int) -> Tensor:
    """[n]: the sum of each value, ``before`` values before it and ``after`` after it."""
    width = before + 1 + after
    return F.avg_pool1d(F.pad(values, (before, after))[None, None], width, stride=1)[0, 0] * width
