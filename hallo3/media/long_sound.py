"""Long recordings: the mono signal the speech encoder wants, in pieces, never as a whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
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
    if facts.sample_rate == sample_rate:
        return _mixed(path, facts)
    try:
        from soxr import ResampleStream
    except ImportError as error:
        raise no_resampler(error, facts.sample_rate, sample_rate) from error
    resampler: Any = ResampleStream(facts.sample_rate, sample_rate, 1, quality="HQ")
    return _fitted(_resampled(_mixed(path, facts), resampler), facts.length_at(sample_rate))


def _mixed(path: Path, facts: SoundFacts) -> Iterator[Tensor]:
    seen = 0
    for piece in read_pieces(path):
        seen += piece.waveform.shape[1]
        if (piece.sample_rate, piece.waveform.shape[0]) != (facts.sample_rate, facts.channels):
            raise _changed(path, facts)
        yield facts.mix(piece.waveform)
    if seen != facts.samples:
        raise _changed(path, facts)


def _resampled(pieces: Iterator[Tensor], resampler: Any) -> Iterator[Tensor]:
    for piece in pieces:
        yield torch.from_numpy(resampler.resample_chunk(piece.numpy()))
    yield torch.from_numpy(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _fitted(pieces: Iterator[Tensor], wanted: int) -> Iterator[Tensor]:
    """Cut or filled with zeros to so many samples, as librosa does; no piece is empty."""
    for piece in pieces:
        if len(kept := piece[:wanted]):
            yield kept
        wanted -= len(kept)
    if wanted:
        yield torch.zeros(wanted)


def _changed(path: Path, facts: SoundFacts) -> AudioError:
    return AudioError(
        "The recording has changed while it was read.",
        found=path.name,
        expected=f"{facts.samples} samples, {facts.channels} channels at {facts.sample_rate} Hz, as before",
        do="run it again when nothing writes to the file",
    )
