"""Recordings: any audio file PyAV reads, as samples, and the mono signal the speech encoder wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, DependencyError
from ..messages import logger
from .audio_decoder import AudioFile, open_audio

CANCELLED = 1e-3
"""A mix this much quieter than its channels means they cancel each other."""
SLOWEST, FASTEST = 1_000, 768_000
"""Samples a second that a recording has: telephones have 8,000, the finest studios 768,000."""
MOST_CHANNELS = 64
"""More than any microphone array has; beyond it FFmpeg mixes no more."""
LONGEST_HOURS = 12
"""Hours that a recording lasts at most."""
RATES = f"a whole number from {SLOWEST} to {FASTEST} Hz"


def check_audio_format(sample_rate: int, channels: int, samples: int) -> None:
    """Refuse a sample rate, a number of channels or a length that no recording of speech has, before anything
    is computed with it.

    Raises ``AudioError``.
    """
    if not SLOWEST <= sample_rate <= FASTEST:
        raise sample_rate_error(f"{sample_rate} Hz")
    if channels > MOST_CHANNELS:
        raise AudioError(
            "The recording has too many channels.",
            found=f"{channels} channels of {samples} samples",
            expected=f"at most {MOST_CHANNELS}",
            fix="mix it down to stereo, or change the axes if they are the wrong way round",
        )
    if samples > LONGEST_HOURS * 3600 * sample_rate:
        raise AudioError(
            "The recording is too long.",
            found=f"{samples / sample_rate / 3600:.2f} h",
            expected=f"at most {LONGEST_HOURS} h",
            fix="cut it into parts and make a video of each",
        )


def sample_rate_error(found: str) -> AudioError:
    """What to tell of a sample rate that is none."""
    return AudioError(
        "The recording's sample rate cannot be used.",
        found=found,
        expected=RATES,
        fix="export the recording again, at 16000 Hz or more",
    )


@dataclass(slots=True)
class AudioStats:
    """Length, loudness and faults of a recording, gathered piece by piece.

    ``loudest`` is over all channels, ``mixed`` over their mean; ``bad`` is the first sample that is
    not finite.
    """

    sample_rate: int
    channels: int
    samples: int = 0
    loudest: float = 0.0
    mixed: float = 0.0
    bad: int | None = None

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    def add(self, waveform: Tensor) -> None:
        """The next [channels, samples] of the recording."""
        finite = waveform.isfinite().all(dim=0)
        if self.bad is None and not bool(finite.all()):
            self.bad = self.samples + int((~finite).nonzero()[0])
        self.samples += waveform.shape[1]
        self.loudest = max(self.loudest, float(waveform.abs().max()))
        self.mixed = max(self.mixed, float(waveform.mean(dim=0).abs().max()))

    def check(self) -> None:
        """Raises ``AudioError`` for a recording that holds values that are not finite."""
        if self.bad is not None:
            raise AudioError(
                "The recording holds values that are not numbers.",
                found=f"NaN or infinity at {self.bad / self.sample_rate:.3f} s",
                expected="finite samples",
                fix="export the recording again",
            )

    def tell(self) -> None:
        """Warns the caller's caller of silence and of channels that cancel each other."""
        if self.loudest == 0:
            logger.warning("The recording is digital silence; the mouth has nothing to follow.")
        if self._cancel():
            logger.warning("The channels cancel each other when mixed; the first one is used.")

    def mix(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [n]: the mean, or the first channel if they cancel each other."""
        return waveform[0] if self._cancel() else waveform.mean(dim=0)

    def stereo(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [2, n]: two channels as they are; one, several, or two that cancel each other are
        mixed to one and doubled."""
        if self.channels == 2 and not self._cancel():
            return waveform
        return self.mix(waveform).expand(2, -1)

    def length_at(self, sample_rate: int) -> int:
        """Samples of the mono signal at another rate, by librosa's rule."""
        return math.ceil(self.samples * (float(sample_rate) / self.sample_rate))

    def _cancel(self) -> bool:
        return self.mixed < CANCELLED * self.loudest


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
    with open_audio(path) as file:
        check_audio_format(file.sample_rate, file.channels, int((file.seconds or 0) * file.sample_rate))
        for piece in _gathered(_decode(file, path.name)):
            samples += piece.waveform.shape[1]
            check_audio_format(file.sample_rate, file.channels, samples)
            yield piece
    if not samples:
        raise AudioError(
            "The recording is empty.",
            found=f"{path.name} with 0 samples",
            expected="at least one video frame of sound",
            fix="record or export it again",
        )


def _decode(file: AudioFile, name: str) -> Iterator[Recording]:
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
        logger.warning(
            f"{name} ends early: by its header it lasts {stated:.2f} s, and {seconds:.2f} s are there. They "
            "are used; copy or export the recording again if there should be more."
        )


def _check_same(first: Any, frame: Any, name: str) -> None:
    """Refuse a track that changes underway: its parts would need to be stretched differently."""
    forms = [f"{each.sample_rate} Hz, {each.layout.nb_channels} channels" for each in (first, frame)]
    if forms[0] != forms[1] or first.format.name != frame.format.name:
        raise AudioError(
            "The recording changes its form underway.",
            found=f"{name}: {forms[0]}, then {forms[1]}",
            expected="one sample rate and number of channels throughout",
            fix="open it in an audio program and export it again",
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
    facts = compute_stats(recording)
    facts.tell()
    return resample(facts.mix(recording.waveform.float()), recording.sample_rate, sample_rate)


def compute_stats(recording: Recording) -> AudioStats:
    """What must be known of a recording in memory before its channels are mixed.

    Raises ``AudioError`` for a batch, no samples and values that are not finite.
    """
    waveform = recording.waveform
    if waveform.ndim != 2 or not waveform.is_floating_point():
        raise AudioError(
            "The recording has the wrong layout.",
            found=f"{list(waveform.shape)} {waveform.dtype} at {recording.sample_rate} Hz",
            expected="[channels, samples] floating point",
            fix="pass one recording at a time",
        )
    check_audio_format(recording.sample_rate, *waveform.shape)
    if 0 in waveform.shape:
        raise AudioError(
            "The recording is empty.",
            found=f"{waveform.shape[0]} channels, {waveform.shape[1]} samples",
            expected="at least one of each",
            fix="record or export it again",
        )
    facts = AudioStats(recording.sample_rate, waveform.shape[0])
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
        raise missing_resampler_error(error, source_rate, target_rate) from error
    resampled = librosa.resample(mono.numpy(), orig_sr=source_rate, target_sr=target_rate)
    return torch.from_numpy(resampled)


def missing_resampler_error(error: ImportError, source_rate: int, target_rate: int) -> DependencyError:
    """What to tell if librosa, or soxr that comes with it, is missing."""
    return DependencyError(
        "Resampling a recording needs a library that is not installed.",
        found=f"{source_rate} Hz, {str(error).splitlines()[0]}",
        expected=f"librosa, or a recording at {target_rate} Hz",
        fix="pip install librosa",
    )


def measure_recording(path: Path) -> AudioStats:
    """Length, sample rate, channels and loudness of a recording, read through once and not kept.

    Raises ``AudioError`` for anything that is not sound and for values that are not finite.
    """
    facts: AudioStats | None = None
    for piece in read_pieces(path):
        facts = facts or AudioStats(piece.sample_rate, piece.waveform.shape[0])
        facts.add(piece.waveform)
    assert facts is not None  # a track without samples has been refused
    facts.check()
    return facts


def stream_mono(path: Path, sample_rate: int, facts: AudioStats | None = None) -> Iterator[Tensor]:
    """The signal of ``to_mono(read_recording(path), sample_rate)`` in pieces [n] float32 of about a second.

    The file is read twice; ``facts``, if they are known already, save the first time. Checked before this
    returns: whatever ``read_recording`` and ``to_mono`` refuse raises the same errors, and warns the same.
    A file that is another one when it is read again raises ``AudioError`` too.
    """
    facts = facts or measure_recording(path)
    facts.tell()
    return resample_pieces(
        _read(path, facts, facts.mix), (facts.sample_rate, sample_rate), facts.length_at(sample_rate)
    )


def stream_stereo(path: Path, sample_rate: int, facts: AudioStats | None = None) -> Iterator[Tensor]:
    """The recording as two channels at a rate, in pieces [2, n] float32 of about a second.

    Two channels stay as they are; one, several, and two that cancel each other are mixed as ``stream_mono``
    mixes them and doubled. ``facts.length_at(sample_rate)`` samples; errors and warnings of ``stream_mono``.
    """
    facts = facts or measure_recording(path)
    facts.tell()
    length = facts.length_at(sample_rate)
    return resample_pieces(
        _read(path, facts, facts.stereo), (facts.sample_rate, sample_rate), length, channels=2
    )


def resample_pieces(
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
        raise missing_resampler_error(error, source_rate, rate) from error
    resampler: Any = ResampleStream(source_rate, rate, channels, quality="HQ")
    return _fitted(_resampled(pieces, resampler, channels), samples, channels)


def _read(path: Path, facts: AudioStats, mix: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
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


def _changed(path: Path, facts: AudioStats) -> AudioError:
    return AudioError(
        "The recording has changed while it was read.",
        found=path.name,
        expected=f"{facts.samples} samples, {facts.channels} channels at {facts.sample_rate} Hz, as before",
        fix="run it again when nothing writes to the file",
    )
