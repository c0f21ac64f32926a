"""A recording's own sound, encoded once for a whole video, exactly as long as the video at most."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .sink import Sink
from .sound import Recording, read_pieces
from .sound_file import opened

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
MIXED = 8
"""Channels that FFmpeg knows how to mix; of more, the mean is taken."""
PIECE = 1 << 16
"""Samples of a recording in memory that are handed over at a time."""


def encode_sound(parts: list[tuple[Path | Recording, Fraction]], path: Path) -> None:
    """Recordings one after the other as AAC, each cut or filled up with silence to so many seconds.

    Sound goes through piece by piece and is cut to full scale, as any player would: far beyond it the encoder
    fails. ``path`` is an MP4 with nothing but sound. Raises ``AudioError``, or ``OSError`` if it cannot be
    written.
    """
    import av

    rate, layout = _common([source for source, _ in parts])
    with Sink(path) as file:
        with av.open(file, "w", format="mp4") as target:
            stream: Any = target.add_stream("aac", rate=rate, layout=layout)
            written, end = 0, Fraction(0)
            for source, seconds in parts:
                end += seconds
                limit = int(end * rate)
                for samples in _filled(_samples(source, rate, layout), limit - written):
                    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                    frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
                    written += samples.shape[1]
                    target.mux(stream.encode(frame))
                    file.check()
            target.mux(stream.encode(None))
        file.check()


def _common(sources: list[Path | Recording]) -> tuple[int, str]:
    """The rate and layout that suit all: the highest rate that AAC has, stereo if any is."""
    rates: list[int] = []
    mono = True
    for source in sources:
        rate, channels = _form(source)
        rates.append(rate if rate in AAC_RATES else 48000)
        mono = mono and channels == 1
    return max(rates), "mono" if mono else "stereo"


def _form(source: Path | Recording) -> tuple[int, int]:
    if isinstance(source, Recording):
        return source.sample_rate, source.waveform.shape[0]
    with opened(source) as file:
        return file.sample_rate, file.channels


def _samples(source: Path | Recording, rate: int, layout: str) -> Iterator[np.ndarray[Any, Any]]:
    import av

    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in _frames(source):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()
    for piece in resampler.resample(None):
        yield piece.to_ndarray()


def _frames(source: Path | Recording) -> Iterator[Any]:
    if isinstance(source, Recording):
        yield from _frames_of(source, 0)
        return
    with opened(source) as file:
        if file.channels <= MIXED:
            yield from file.container.decode(file.track)
            return
    done = 0
    for piece in read_pieces(source):
        yield from _frames_of(piece, done)
        done += piece.waveform.shape[1]


def _frames_of(source: Recording, begun: int) -> Iterator[Any]:
    """A recording, or the piece of one that begins at a sample, as FFmpeg's frames."""
    import av

    waveform = source.waveform if source.waveform.shape[0] <= 2 else source.waveform.mean(0, keepdim=True)
    for start in range(0, waveform.shape[1], PIECE):
        samples = waveform[:, start : start + PIECE].float().clamp(-1, 1).contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(
            samples, format="fltp", layout="mono" if len(samples) == 1 else "stereo"
        )
        frame.sample_rate, frame.pts = source.sample_rate, begun + start
        frame.time_base = Fraction(1, source.sample_rate)
        yield frame


def _filled(pieces: Iterator[np.ndarray[Any, Any]], wanted: int) -> Iterator[np.ndarray[Any, Any]]:
    """Exactly so many samples: cut, or silence at the end; the last recording may end early."""
    channels = 1
    for samples in pieces:
        channels = samples.shape[0]
        if wanted <= 0:
            return
        yield np.ascontiguousarray(samples[:, :wanted].clip(-1, 1))
        wanted -= samples.shape[1]
    while wanted > 0:
        yield np.zeros((channels, min(wanted, PIECE)), np.float32)
        wanted -= PIECE
