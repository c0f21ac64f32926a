"""Recordings: any audio file that PyAV reads, in pieces or whole, and the signal for the speech encoder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import AudioError, DependencyError
from ..messages import logger
from .audio_decoder import MAX_GAP_SECONDS, RESET_SECONDS, AudioFile, decode_sound, open_audio

CANCELLATION = 1e-3
"""Peak of the mix, relative to the channels', below which they cancel each other."""
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000
"""Telephones have 8,000 Hz, the finest studios 768,000."""
MAX_CHANNELS = 64
"""FFmpeg mixes no more."""
MAX_HOURS = 12
PIECE_SECONDS = 1
QUICK_SECONDS = 600
FAULTS = {
    "tracks": "{tracks} sound tracks: the first is used; --track 2 (in Python track=2) uses the second.",
    "excess": "{fault.seconds:.2f} s of what seems to be sound follow the end that the header states, at "
    "{fault.first:.2f} s. They are not used; export the file again in an audio program if they belong to it.",
    "unreadable": "{fault} could not be read; there is silence in its place.",
    "gap": "{fault} is missing by the file's timestamps; there is silence in its place.",
    "damaged": "{fault} is damaged and may sound wrong.",
    "clock": "the timestamps jump far ahead at {fault.first:.2f} s; what follows is used without a pause.",
    "change": "sample rate or channels change at {fault.first:.2f} s; all is converted to {rate} Hz, "
    "{channels} channels.",
    "short": "shorter than its header says: {fault.seconds:.2f} s are stated and {fault.first:.2f} s exist. "
    "They are used; copy or export the recording again if there should be more.",
}
"""What is warned of, by the kind of a file's fault."""


@dataclass(frozen=True, slots=True)
class Recording:
    """``waveform`` [channels, samples] float32, usually within -1..1."""

    waveform: Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def channels(self) -> int:
        return self.waveform.shape[0]

    def pieces(self) -> Iterator[Recording]:
        """All of it at once."""
        yield self


@dataclass(slots=True)
class AudioStats:
    """Length, loudness and faults of a recording, gathered piece by piece. ``peak`` is over all channels,
    ``mono_peak`` over their mean; ``bad_sample`` is the first that is not finite. ``track`` is the one of a
    file that was asked for, and ``channel`` the only one of the track that is used."""

    sample_rate: int
    channels: int
    track: int | None = None
    samples: int = 0
    peak: float = 0.0
    mono_peak: float = 0.0
    bad_sample: int | None = None
    channel: int | None = None

    def add(self, waveform: Tensor) -> None:
        """The next [channels, samples] of the recording."""
        peak = mono_peak = _peak(waveform)
        if not math.isfinite(peak) and self.bad_sample is None:
            finite = waveform.isfinite().all(dim=0)
            self.bad_sample = self.samples + int((~finite).nonzero()[0])
        if self.channels > 1:
            mono_peak = _peak(waveform.mean(dim=0))
        self.samples += waveform.shape[1]
        self.peak, self.mono_peak = max(self.peak, peak), max(self.mono_peak, mono_peak)

    def check_finite(self) -> None:
        if self.bad_sample is not None:
            raise AudioError(
                "The recording contains NaN or infinite values.",
                found=f"the first at {self.bad_sample / self.sample_rate:.3f} s",
                expected="finite samples",
                fix="export the recording again",
            )

    def warn(self, other_track: int = 0) -> None:
        """Warn of silence, naming a track with sound, and of channels that cancel each other."""
        if self.peak == 0:
            advice = f" Track {other_track} has sound: --track {other_track}." if other_track else ""
            logger.warning(f"The recording is digital silence; nothing drives the mouth.{advice}")
        if self._cancels():
            logger.warning("The channels cancel each other when mixed; the first one is used.")

    def to_mono(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [n]: the mean, or the first channel if they cancel each other."""
        if self.channel is not None:
            return waveform[self.channel]
        return waveform[0] if self._cancels() else waveform.mean(dim=0)

    def to_stereo(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [2, n]: two channels as they are; one, several, or two that cancel each other are
        mixed and doubled."""
        if self.channels == 2 and self.channel is None and not self._cancels():
            return waveform
        return self.to_mono(waveform).expand(2, -1)

    def length_at(self, sample_rate: int) -> int:
        """Samples at another rate."""
        return _resampled_length(self.samples, self.sample_rate, sample_rate)

    def _cancels(self) -> bool:
        return self.mono_peak < CANCELLATION * self.peak


def _peak(waveform: Tensor) -> float:
    """Not finite if a sample is not."""
    low, high = waveform.aminmax()
    return float(torch.maximum(-low, high))


def check_audio_format(sample_rate: int, channels: int, samples: int) -> None:
    """Raises ``AudioError`` for a rate, channels or a length that no recording of speech has."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise sample_rate_error(f"{sample_rate} Hz")
    if channels > MAX_CHANNELS:
        raise AudioError(
            "The recording has too many channels.",
            found=f"{channels} channels of {samples} samples",
            expected=f"at most {MAX_CHANNELS}",
            fix="mix it down to stereo; if the axes are swapped, transpose them",
        )
    if samples > MAX_HOURS * 3600 * sample_rate:
        raise AudioError(
            "The recording is too long.",
            found=f"{samples / sample_rate / 3600:.2f} h",
            expected=f"at most {MAX_HOURS} h",
            fix="cut it into parts and make a video of each",
        )


def sample_rate_error(found: str) -> AudioError:
    return AudioError(
        "The recording's sample rate cannot be used.",
        found=found,
        expected=f"a whole number from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz",
        fix="export the recording again, at 16000 Hz or more",
    )


def _empty_error(found: str) -> AudioError:
    return AudioError(
        "The recording is empty.",
        found=found,
        expected="at least one video frame of sound",
        fix="record or export it again",
    )


def read_recording(path: Path, track: int | None = None) -> Recording:
    """An audio track of a file, by default the first. Raises and warns as ``read_pieces``."""
    return _concatenate(list(read_pieces(path, track)))


def read_pieces(path: Path, track: int | None = None, *, tell: bool = True) -> Iterator[Recording]:
    """An audio track of a file, counted from 1, about a second at a time, no piece empty. To ``tell`` is to
    warn, at the end, of what is missing, and of other tracks if ``track`` is None. Raises ``AudioError`` for
    anything that is not audio, for a format that ``check_audio_format`` refuses, and at the end for a track
    without samples."""
    samples, pieces, seconds = 0, list[Recording](), 0.0
    with open_audio(path, track) as file:
        check_audio_format(file.sample_rate, file.channels, int((file.seconds or 0) * file.sample_rate))
        for piece in _decode(file):
            samples += piece.waveform.shape[1]
            check_audio_format(file.sample_rate, file.channels, samples)
            pieces.append(piece)
            seconds += piece.seconds
            if seconds >= PIECE_SECONDS:
                yield _concatenate(pieces)
                pieces, seconds = [], 0.0
        if tell:
            _warn(file)
    if not samples:
        raise _empty_error(f"{path.name} with 0 samples")
    if seconds:
        yield _concatenate(pieces)


def _warn(file: AudioFile) -> None:
    facts = {"tracks": len(file.container.streams.audio), "rate": file.sample_rate, "channels": file.channels}
    for kind, fault in file.faults.items():
        logger.warning(f"{file.name}: {FAULTS[kind].format(fault=fault, **facts)}")


def _decode(file: AudioFile) -> Iterator[Recording]:
    """The track in floating point; PyAV gets its channels interleaved, because eight planes make it crash."""
    from av import AudioResampler

    to_float = AudioResampler(format="flt", layout=file.track.layout, rate=file.sample_rate)
    for frame in chain(decode_sound(file), [None]):
        for piece in to_float.resample(frame):
            samples = cast("np.ndarray[Any, np.dtype[np.float32]]", piece.to_ndarray())
            by_channel = np.ascontiguousarray(samples.reshape(-1, file.channels).T)
            yield Recording(torch.from_numpy(by_channel), file.sample_rate)


def _concatenate(pieces: list[Recording]) -> Recording:
    return Recording(torch.cat([piece.waveform for piece in pieces], dim=1), pieces[0].sample_rate)


def measure_recording(path: Path, track: int | None = None, *, quick: bool = False) -> AudioStats:
    """Stats of a file, read once. ``quick``: after ``QUICK_SECONDS`` with sound, packets are measured and not
    decoded, to a frame of the codec. Raises and warns as ``read_pieces`` and ``AudioStats.warn``, and raises
    ``AudioError`` for values that are not finite."""
    stats: AudioStats | None = None
    for piece in read_pieces(path, track):
        stats = stats or AudioStats(piece.sample_rate, piece.waveform.shape[0], track)
        stats.add(piece.waveform)
        if quick and stats.peak > 0 and stats.samples > QUICK_SECONDS * stats.sample_rate:
            with open_audio(path, track) as file:
                stats.samples = round(_measure_packets(file) * stats.sample_rate)
                _warn(file)
            check_audio_format(stats.sample_rate, stats.channels, stats.samples)
            break
    assert stats is not None  # a track without samples has been refused
    stats.check_finite()
    stats.warn(_find_sound(path, track or 1) if stats.peak == 0 else 0)
    return stats


def _measure_packets(file: AudioFile) -> float:
    """Seconds of the track, from its header if FFmpeg checks it, else from the timestamps of all packets."""
    from av.error import FFmpegError

    if file.seconds is not None and file.container.format.name == "wav":
        return file.seconds
    unit, total, end = file.track.time_base, 0, int(file.track.start_time or 0)
    back, ahead = int(RESET_SECONDS / unit), int(MAX_GAP_SECONDS / unit)
    with suppress(FFmpegError):
        for packet in file.container.demux(file.track):
            if (pts := packet.pts) is not None:
                if not end - back < pts < end + ahead:
                    end = pts  # another clock
                if (until := pts + (packet.duration or 0)) > end:
                    total, end = total + until - end, until
    return float(total * unit)


def _find_sound(path: Path, silent: int) -> int:
    """The first track with sound beside a silent one, or 0."""
    with open_audio(path, silent) as file:
        count = len(file.container.streams.audio)
    for track in set(range(1, count + 1)) - {silent}:
        with suppress(AudioError):
            if any(piece.waveform.any() for piece in read_pieces(path, track, tell=False)):
                return track
    return 0


def compute_stats(recording: Recording) -> AudioStats:
    """Stats of a recording in memory. Raises ``AudioError`` for a batch, no samples, values that are not
    finite, and what ``check_audio_format`` refuses."""
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
        raise _empty_error(f"{waveform.shape[0]} channels, {waveform.shape[1]} samples")
    stats = AudioStats(recording.sample_rate, waveform.shape[0])
    stats.add(waveform.float())
    stats.check_finite()
    return stats


def to_mono(recording: Recording, sample_rate: int) -> Tensor:
    """The recording's mean over channels at ``sample_rate``, [samples] float32. Raises as ``compute_stats``,
    warns as ``AudioStats.warn``."""
    stats = compute_stats(recording)
    stats.warn()
    return resample(stats.to_mono(recording.waveform.float()), recording.sample_rate, sample_rate)


def stream_mono(path: Path, sample_rate: int, stats: AudioStats | None = None) -> Iterator[Tensor]:
    """``to_mono(read_recording(path), sample_rate)`` in pieces [n] of about a second. The file is read twice,
    or once with its ``stats``, and then without a warning. Raises and warns as ``to_mono`` at once; later, if
    the file changes."""
    return _stream(path, sample_rate, stats or measure_recording(path), 1)


def stream_stereo(path: Path, sample_rate: int, stats: AudioStats) -> Iterator[Tensor]:
    """``stream_mono`` with two channels, [2, n]; see ``AudioStats.to_stereo``."""
    return _stream(path, sample_rate, stats, 2)


def _stream(path: Path, sample_rate: int, stats: AudioStats, channels: int) -> Iterator[Tensor]:
    mix = stats.to_mono if channels == 1 else stats.to_stereo

    def mixed_pieces() -> Iterator[Tensor]:
        samples, changed = 0, False
        for piece in read_pieces(path, stats.track, tell=False):
            samples += piece.waveform.shape[1]
            changed = (piece.sample_rate, piece.waveform.shape[0]) != (stats.sample_rate, stats.channels)
            if changed:
                break
            yield mix(piece.waveform)
        if changed or samples != stats.samples:
            raise AudioError(
                "The recording changed while it was being read.",
                found=path.name,
                expected=f"as before: {stats.samples} samples, {stats.channels} channels, "
                f"{stats.sample_rate} Hz",
                fix="run it again when nothing writes to the file",
            )

    rates = stats.sample_rate, sample_rate
    return resample_pieces(mixed_pieces(), rates, stats.length_at(sample_rate), channels)


def resample(mono: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """[samples] at another rate by soxr, high quality: librosa's default. Raises ``DependencyError``."""
    if source_rate == target_rate:
        return mono
    soxr: Any = _import_soxr(source_rate, target_rate)
    resampled = torch.from_numpy(soxr.resample(mono.numpy(), source_rate, target_rate, "HQ"))
    return F.pad(resampled, (0, _resampled_length(len(mono), source_rate, target_rate) - len(resampled)))


def _resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """By librosa's rule."""
    return math.ceil(samples * (float(target_rate) / source_rate))


def resample_pieces(
    pieces: Iterator[Tensor], rates: tuple[int, int], samples: int, channels: int = 1
) -> Iterator[Tensor]:
    """``resample`` of a stream of pieces [n], or [channels, n], ``samples`` in total. Raises
    ``DependencyError`` before it returns."""
    if rates[0] == rates[1]:
        return _fix_length(pieces, samples, channels)
    resampler: Any = _import_soxr(*rates).ResampleStream(*rates, channels, quality="HQ")

    def resampled() -> Iterator[Tensor]:
        end = torch.zeros(channels, 0) if channels > 1 else torch.zeros(0)
        for piece, last in chain(((piece, False) for piece in pieces), [(end, True)]):
            samples = np.ascontiguousarray(piece.numpy().T)  # soxr has channels last
            yield torch.from_numpy(resampler.resample_chunk(samples, last=last)).t().contiguous()

    return _fix_length(resampled(), samples, channels)


def _fix_length(pieces: Iterable[Tensor], samples: int, channels: int) -> Iterator[Tensor]:
    """Cut, or filled with zeros, to ``samples``, as librosa does; no piece is empty."""
    for piece in pieces:
        if (part := piece[..., :samples]).shape[-1]:
            yield part
        samples -= part.shape[-1]
    if samples:
        yield torch.zeros(channels, samples) if channels > 1 else torch.zeros(samples)


def _import_soxr(source_rate: int, target_rate: int) -> ModuleType:
    try:
        import soxr
    except ImportError as error:
        raise DependencyError(
            "Resampling a recording needs a library that is not installed.",
            found=f"{source_rate} Hz, {str(error).splitlines()[0]}",
            expected=f"soxr, or a recording at {target_rate} Hz",
            fix="pip install soxr",
        ) from error
    return soxr
