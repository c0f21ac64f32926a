"""Recordings: any audio file PyAV reads, as samples, and the mono signal the speech encoder wants."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, DependencyError

CANCELLED = 1e-3
"""A mix this much quieter than its channels means they cancel each other."""


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
            pieces, rate = _decode(container)
    except FFmpegError as error:
        raise AudioError(
            "The recording cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes: {error.strerror}",
            expected="a complete WAV, MP3, FLAC, M4A, OGG or similar file",
            do="play it in an audio program and export it again",
        ) from error
    if not pieces or not sum(piece.shape[1] for piece in pieces):
        raise AudioError(
            "The recording is empty.",
            found=f"{path.name} with 0 samples",
            expected="at least one video frame of sound",
            do="record or export it again",
        )
    return Recording(torch.from_numpy(np.concatenate(pieces, axis=1)), rate)


def _decode(container: Any) -> tuple[list[np.ndarray[Any, np.dtype[np.float32]]], int]:
    import av

    stream = container.streams.audio[0]
    rate, layout = int(stream.rate), stream.layout
    to_float = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    pieces: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    for frame in container.decode(stream):
        pieces += [
            cast("np.ndarray[Any, np.dtype[np.float32]]", f.to_ndarray()) for f in to_float.resample(frame)
        ]
    pieces += [cast("np.ndarray[Any, np.dtype[np.float32]]", f.to_ndarray()) for f in to_float.resample(None)]
    return pieces, rate


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
    finite = waveform.isfinite().all(dim=0)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise AudioError(
            "The recording holds values that are not numbers.",
            found=f"NaN or infinity at {first / recording.sample_rate:.3f} s",
            expected="finite samples",
            do="export the recording again",
        )
    return resample(_mix(waveform), recording.sample_rate, sample_rate)


def _mix(waveform: Tensor) -> Tensor:
    loudest = float(waveform.abs().max())
    if loudest == 0:
        warnings.warn("The recording is digital silence; the mouth has nothing to follow.", stacklevel=4)
    mono = waveform.mean(dim=0)
    if float(mono.abs().max()) < CANCELLED * loudest:
        warnings.warn("The channels cancel each other when mixed; the first one is used.", stacklevel=4)
        mono = waveform[0]
    return mono


def resample(mono: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """[samples] at another rate, by librosa's default (soxr, high quality)."""
    if source_rate == target_rate:
        return mono
    try:
        import librosa
    except ImportError as error:
        raise DependencyError(
            "Resampling a recording needs a library that is not installed.",
            found=f"{source_rate} Hz, {str(error).splitlines()[0]}",
            expected=f"librosa, or a recording at {target_rate} Hz",
            do="pip install librosa",
        ) from error
    resampled = librosa.resample(mono.numpy(), orig_sr=source_rate, target_sr=target_rate)
    return torch.from_numpy(resampled)
