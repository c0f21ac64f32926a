"""The voice in a recording: its vocals alone, as the mono signal that is listened to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .audio.mdx import RATE
from .audio.vocals import Separator, Watch, unwatched
from .media.long_sound import resampled, stream_stereo
from .media.sound import Recording, facts_of
from .media.sound_facts import SoundFacts


def stream_voice(
    path: Path, sample_rate: int, facts: SoundFacts, separator: Separator, watch: Watch = unwatched
) -> Iterator[Tensor]:
    """What ``stream_mono`` gives of a recording with its vocals alone: pieces [n] at ``sample_rate``.

    They have ``facts.length_at(sample_rate)`` samples in all, as without separation, so that the plan of
    segments is the same. As in the original, vocals are taken out in stereo at 44.1 kHz and become mono at
    ``sample_rate`` after that (facts 8). Raises what ``stream_mono`` raises and, before it returns, what
    opening the network does.
    """
    _ = separator.network
    stereo = stream_stereo(path, RATE, facts)
    return _voice(stereo, sample_rate, facts, separator, watch)


def voice_of(
    recording: Recording, sample_rate: int, separator: Separator, watch: Watch = unwatched
) -> Tensor:
    """``stream_voice`` of a recording in memory, [samples] float32; as long as ``to_mono`` would make it."""
    _ = separator.network
    facts = facts_of(recording)
    facts.tell()
    rate, waveform = recording.sample_rate, recording.waveform.float()
    starts = range(0, waveform.shape[1], rate)
    pieces = (facts.stereo(waveform[:, start : start + rate]) for start in starts)
    stereo = resampled(pieces, (rate, RATE), facts.length_at(RATE), channels=2)
    return torch.cat(list(_voice(stereo, sample_rate, facts, separator, watch)))


def _voice(
    stereo: Iterator[Tensor], sample_rate: int, facts: SoundFacts, separator: Separator, watch: Watch
) -> Iterator[Tensor]:
    loudest = facts.loudest if facts.channels <= 2 else facts.mixed
    vocals = separator.separate(stereo, facts.length_at(RATE), loudest, watch)
    mono = (piece.mean(dim=0) for piece in vocals)
    return resampled(mono, (RATE, sample_rate), facts.length_at(sample_rate))
