"""Recordings: any audio file PyAV reads, as samples, and the mono signal the speech encoder wants."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, DependencyError
from .sound_facts import SoundFacts, check_form
from .sound_file import SoundFile, opened

PIECE_SECONDS = 1
"""Sound that is decoded before it is handed on."""
MISSING_SECONDS = 0.25
"""What a file may lack of the length that it states: encoders round to their frames."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Sound as it was recorded: ``waveform`` [channels, samples] float32, usually within -1..1."""

    waveform: Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[-1] / self.sample_rate


def read_recording(path: Path) -> Recording:
    """The first sound track of a file. Raises ``AudioError`` for anything that is not sound."""
    return _joined(list(read_pieces(path)))


def read_pieces(path: Path) -> Iterator[Recording]:
    """The first sound track of a file, about a second at a time.

    Warns of a file that ends before it says. Raises ``AudioError`` for anything that is not sound, for a form
    that no recording of speech has (:func:`check_form`), and at its end for a track without samples.
    """
    samples = 0
    with opened(path) as file:
        check_form(file.sample_rate, file.channels, int((file.seconds or 0) * file.sample_rate))
        for piece in _gathered(_decode(file, path.name)):
            samples += piece.waveform.shape[1]
            check_form(file.sample_rate, file.channels, samples)
            yield piece
    if not samples:
        raise AudioError(
            "The recording is empty.",
            found=f"{path.name} with 0 samples",
            expected="at least one video frame of sound",
            do="record or export it again",
        )


def _decode(file: SoundFile, name: str) -> Iterator[Recording]:
    """The track in floating point; PyAV gets its channels interleaved, because eight planes make it crash."""
    import av

    to_float = av.AudioResampler(format="flt", layout=file.track.layout, rate=file.sample_rate)
    first: Any = None
    end = 0.0
    for frame in chain(file.container.decode(file.track), [None]):
        if frame is not None:
            first = first or frame
            _check_same(first, frame, name)
            end = (frame.time if frame.time is not None else end) + frame.samples / frame.sample_rate
        for piece in to_float.resample(frame):
            samples = cast("np.ndarray[Any, np.dtype[np.float32]]", piece.to_ndarray())
            by_channel = np.ascontiguousarray(samples.reshape(-1, file.channels).T)
            yield Recording(torch.from_numpy(by_channel), file.sample_rate)
    if first is not None and file.stated is not None:
        _tell_if_cut(name, file.stated, end - (first.time or 0))


def _tell_if_cut(name: str, stated: float, seconds: float) -> None:
    if stated - seconds > MISSING_SECONDS:
        warnings.warn(
            f"{name} ends early: by its header it lasts {stated:.2f} s, and {seconds:.2f} s are there. They "
            "are used; copy or export the recording again if there should be more.",
            stacklevel=2,
        )


def _check_same(first: Any, frame: Any, name: str) -> None:
    """Refuse a track that changes underway: its parts would need to be stretched differently."""
    forms = [f"{each.sample_rate} Hz, {each.layout.nb_channels} channels" for each in (first, frame)]
    if forms[0] != forms[1] or first.format.name != frame.format.name:
        raise AudioError(
            "The recording changes its form underway.",
            found=f"{name}: {forms[0]}, then {forms[1]}",
            expected="one sample rate and number of channels throughout",
            do="open it in an audio program and export it again",
        )


def _gathered(pieces: Iterable[Recording]) -> Iterator[Recording]:
    """The same sound in pieces that are worth computing with, none of them empty."""
    held: list[Recording] = []
    seconds = 0.0
    for piece in pieces:
        if piece.waveform.shape[1]:
            held.append(piece)
            seconds += piece.seconds
        if seconds >= PIECE_SECONDS:
            yield _joined(held)
            held, seconds = [], 0.0
    if held:
        yield _joined(held)


def _joined(pieces: list[Recording]) -> Recording:
    return Recording(torch.cat([piece.waveform for piece in pieces], dim=1), pieces[0].sample_rate)


def to_mono(recording: Recording, sample_rate: int) -> Tensor:
    """The recording's mean over channels at ``sample_rate``, [samples] float32.

    Checked: a batch, no samples, a form that no recording of speech has (:func:`check_form`) or values that
    are not finite raise ``AudioError``. Silence and channels that cancel each other are told as warnings; of
    the latter the first channel is used.
    """
    facts = facts_of(recording)
    facts.tell()
    return resample(facts.mix(recording.waveform.float()), recording.sample_rate, sample_rate)


def facts_of(recording: Recording) -> SoundFacts:
    """What must be known of a recording in memory before its channels are mixed.

    Raises ``AudioError`` for a batch, no samples and values that are not finite.
    """
    waveform = recording.waveform
    if waveform.ndim != 2 or not waveform.is_floating_point():
        raise AudioError(
            "The recording has the wrong layout.",
            found=f"{list(waveform.shape)} {waveform.dtype} at {recording.sample_rate} Hz",
            expected="[channels, samples] floating point",
            do="pass one recording at a time",
        )
    check_form(recording.sample_rate, *waveform.shape)
    if 0 in waveform.shape:
        raise AudioError(
            "The recording is empty.",
            found=f"{waveform.shape[0]} channels, {waveform.shape[1]} samples",
            expected="at least one of each",
            do="record or export it again",
        )
    facts = SoundFacts(recording.sample_rate, waveform.shape[0])
    facts.add(waveform.float())
    facts.check()
    return facts


def resample(mono: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """[samples] at another rate, by librosa's default (soxr, high quality)."""
    if source_rate == target_rate:
        return mono
    try:
        import librosa
    except ImportError as error:
        raise no_resampler(error, source_rate, target_rate) from error
    resampled = librosa.resample(mono.numpy(), orig_sr=source_rate, target_sr=target_rate)
    return torch.from_numpy(resampled)


def no_resampler(error: ImportError, source_rate: int, target_rate: int) -> DependencyError:
    """What to tell if librosa, or soxr that comes with it, is missing."""
    return DependencyError(
        "Resampling a recording needs a library that is not installed.",
        found=f"{source_rate} Hz, {str(error).splitlines()[0]}",
        expected=f"librosa, or a recording at {target_rate} Hz",
        do="pip install librosa",
    )
