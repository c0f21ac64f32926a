"""Long recordings: the mono signal the speech encoder wants, in pieces, never as a whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError
from .sound import no_resampler, read_pieces
from .sound_facts import SoundFacts


def recording_facts(path: Path) -> SoundFacts:
    """Length, sample rate, channels and loudness of a recording, read through once and not kept.

    Raises ``AudioError`` for anything that is not sound and for values that are not finite.
    """
    facts: SoundFacts | None = None
    for piece in read_pieces(path):
        facts = facts or SoundFacts(piece.sample_rate, piece.waveform.shape[0])
        facts.add(piece.waveform)
    assert facts is not None  # a track without samples has been refused
    facts.check()
    return facts


def stream_mono(path: Path, sample_rate: int, facts: SoundFacts | None = None) -> Iterator[Tensor]:
    """The signal of ``to_mono(read_recording(path), sample_rate)`` in pieces [n] float32 of about a second.

    The file is read twice; ``facts``, if they are known already, save the first time. Checked before this
    returns: whatever ``read_recording`` and ``to_mono`` refuse raises the same errors, and warns the same.
    A file that is another one when it is read again raises ``AudioError`` too.
    """
    facts = facts or recording_facts(path)
    facts.tell()
    return resampled(
        _read(path, facts, facts.mix), (facts.sample_rate, sample_rate), facts.length_at(sample_rate)
    )


def stream_stereo(path: Path, sample_rate: int, facts: SoundFacts | None = None) -> Iterator[Tensor]:
    """The recording as two channels at a rate, in pieces [2, n] float32 of about a second.

    Two channels stay as they are; one, several, and two that cancel each other are mixed as ``stream_mono``
    mixes them and doubled. ``facts.length_at(sample_rate)`` samples; errors and warnings of ``stream_mono``.
    """
    facts = facts or recording_facts(path)
    facts.tell()
    length = facts.length_at(sample_rate)
    return resampled(_read(path, facts, facts.stereo), (facts.sample_rate, sample_rate), length, channels=2)


def resampled(
    pieces: Iterator[Tensor], rates: tuple[int, int], samples: int, channels: int = 1
) -> Iterator[Tensor]:
    """A stream of pieces [n], or [channels, n] of several, from the first rate at the second, by soxr.

    Cut or filled with zeros to ``samples``, as librosa does. Raises ``DependencyError`` before it returns.
    """
    source_rate, rate = rates
    if source_rate == rate:
        return _fitted(pieces, samples, channels)
    try:
        from soxr import ResampleStream
    except ImportError as error:
        raise no_resampler(error, source_rate, rate) from error
    resampler: Any = ResampleStream(source_rate, rate, channels, quality="HQ")
    return _fitted(_resampled(pieces, resampler, channels), samples, channels)


def _read(path: Path, facts: SoundFacts, mix: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    seen = 0
    for piece in read_pieces(path):
        seen += piece.waveform.shape[1]
        if (piece.sample_rate, piece.waveform.shape[0]) != (facts.sample_rate, facts.channels):
            raise _changed(path, facts)
        yield mix(piece.waveform)
    if seen != facts.samples:
        raise _changed(path, facts)


def _resampled(pieces: Iterator[Tensor], resampler: Any, channels: int) -> Iterator[Tensor]:
    """soxr has channels last."""
    end = torch.zeros(channels, 0) if channels > 1 else torch.zeros(0)
    for piece, last in chain(((piece, False) for piece in pieces), [(end, True)]):
        samples = np.ascontiguousarray(piece.numpy().T)
        yield torch.from_numpy(resampler.resample_chunk(samples, last=last)).t().contiguous()


def _fitted(pieces: Iterator[Tensor], wanted: int, channels: int) -> Iterator[Tensor]:
    """Cut or filled with zeros to so many samples; no piece is empty."""
    for piece in pieces:
        if (kept := piece[..., :wanted]).shape[-1]:
            yield kept
        wanted -= kept.shape[-1]
    if wanted:
        yield torch.zeros(channels, wanted) if channels > 1 else torch.zeros(wanted)


def _changed(path: Path, facts: SoundFacts) -> AudioError:
    return AudioError(
        "The recording has changed while it was read.",
        found=path.name,
        expected=f"{facts.samples} samples, {facts.channels} channels at {facts.sample_rate} Hz, as before",
        do="run it again when nothing writes to the file",
    )
