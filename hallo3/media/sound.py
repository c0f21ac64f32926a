"""Recordings: any audio file PyAV reads, as samples, and the mono signal the speech encoder wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, DependencyError
from .sound_facts import SoundFacts

PIECE_SECONDS = 1
"""Sound that is decoded before it is handed on."""


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

    Raises ``AudioError`` for anything that is not sound, and at its end for a track without samples.
    """
    if not path.is_file():
        raise AudioError(
            "The recording cannot be opened.",
            found=f"no file {path}",
            expected="an audio or video file",
            do="check the path",
        )
    import av
    from av.error import FFmpegError

    try:
        with path.open("rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
            if not container.streams.audio:
                raise AudioError(
                    "The file has no sound.",
                    found=f"{path.name} with {len(container.streams)} other tracks",
                    expected="at least one audio track",
                    do="choose a recording of speech",
                )
            empty = True
            for piece in _gathered(_decode(container)):
                empty = False
                yield piece
    except FFmpegError as error:
        raise AudioError(
            "The recording cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes: {error.strerror}",
            expected="a complete WAV, MP3, FLAC, M4A, OGG or similar file",
            do="play it in an audio program and export it again",
        ) from error
    if empty:
        raise AudioError(
            "The recording is empty.",
            found=f"{path.name} with 0 samples",
            expected="at least one video frame of sound",
            do="record or export it again",
        )


def _decode(container: Any) -> Iterator[Recording]:
    import av

    stream = container.streams.audio[0]
    rate, layout = int(stream.rate), stream.layout
    to_float = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in chain(container.decode(stream), [None]):
        for piece in to_float.resample(frame):
            samples = cast("np.ndarray[Any, np.dtype[np.float32]]", piece.to_ndarray())
            yield Recording(torch.from_numpy(samples), rate)


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

    Checked: a batch, no samples or values that are not finite raise ``AudioError``. Silence and channels
    that cancel each other are told as warnings; of the latter the first channel is used.
    """
    waveform = recording.waveform
    if waveform.ndim != 2 or not waveform.is_floating_point() or recording.sample_rate < 1:
        raise AudioError(
            "The recording has the wrong layout.",
            found=f"{list(waveform.shape)} {waveform.dtype} at {recording.sample_rate} Hz",
            expected="[channels, samples] floating point at a positive sample rate",
            do="pass one recording at a time",
        )
    if 0 in waveform.shape:
        raise AudioError(
            "The recording is empty.",
            found=f"{waveform.shape[0]} channels, {waveform.shape[1]} samples",
            expected="at least one of each",
            do="record or export it again",
        )
    waveform = waveform.float()
    facts = SoundFacts(recording.sample_rate, waveform.shape[0])
    facts.add(waveform)
    facts.check()
    facts.tell()
    return resample(facts.mix(waveform), recording.sample_rate, sample_rate)


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
