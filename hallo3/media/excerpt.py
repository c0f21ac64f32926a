"""A part of a recording, with silence before and after it, as a recording of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import AudioError, InputError
from .audio import Recording, read_pieces

MAX_SILENCE = 600.0
"""Seconds of silence before and after a recording."""
OPTIONS = {"rf64": "auto", "fflags": "+bitexact"}
"""Of FFmpeg's WAV: beyond 4 GB too, and without its version, so that equal parts are equal files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """From ``start`` to ``stop`` seconds of a recording, to its end if that is None, between seconds of
    silence. Raises ``InputError``."""

    start: float = 0.0
    stop: float | None = None
    before: float = 0.0
    after: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < (float("inf") if self.stop is None else self.stop):
            end = "the end" if self.stop is None else f"{self.stop:g} s"
            raise _excerpt_error(
                f"from {self.start:g} s to {end}", "a start before the end", "correct the times"
            )
        if not all(0 <= seconds <= MAX_SILENCE for seconds in (self.before, self.after)):
            found = f"{self.before:g} s of silence before, {self.after:g} s after"
            raise _excerpt_error(found, f"0 to {MAX_SILENCE:g} s", "choose numbers in that range")

    @property
    def is_whole(self) -> bool:
        return self == Excerpt()

    def pieces(self, path: Path, track: int | None = None) -> Iterator[Recording]:
        """Of a file's track, mixed to one channel if it has more than two. Raises ``AudioError`` as
        ``read_pieces``, and if the recording ends before the part begins."""
        position, rate, channels, is_empty = 0, 0, 1, True
        for piece in read_pieces(path, track):
            waveform = piece.waveform
            if waveform.shape[0] > 2:
                waveform = waveform.mean(dim=0, keepdim=True)
            if not rate:
                rate, channels = piece.sample_rate, waveform.shape[0]
                yield from _silence(self.before, rate, channels)
            first = max(0, round(self.start * rate) - position)
            last = None if self.stop is None else max(0, round(self.stop * rate) - position)
            position += waveform.shape[1]
            if (part := waveform[:, first:last]).shape[1]:
                is_empty = False
                yield Recording(part, rate)
            if last is not None and last <= waveform.shape[1]:
                break
        if is_empty:
            raise AudioError(
                "The recording ends before this part of it begins.",
                found=f"{position / rate:.2f} s, and a part from {self.start:g} s",
                expected=f"a part from 0 to {position / rate:.2f} s",
                fix="choose an earlier part",
            )
        yield from _silence(self.after, rate, channels)

    def write(self, path: Path, target: Path, track: int | None = None) -> None:
        """As a WAV of 32-bit floating point. Raises as :meth:`pieces`."""
        import av

        with av.open(str(target), "w", format="wav", container_options=OPTIONS) as container:
            stream: Any = None
            for piece in self.pieces(path, track):
                layout = "mono" if piece.waveform.shape[0] == 1 else "stereo"
                if stream is None:
                    stream = container.add_stream("pcm_f32le", rate=piece.sample_rate, layout=layout)
                samples = piece.waveform.t().reshape(1, -1).contiguous().numpy()
                frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
                frame.sample_rate, frame.time_base = piece.sample_rate, Fraction(1, piece.sample_rate)
                container.mux(stream.encode(frame))
            if stream is not None:
                container.mux(stream.encode(None))


def _silence(seconds: float, rate: int, channels: int) -> Iterator[Recording]:
    left = round(seconds * rate)
    while left > 0:
        silence: Tensor = torch.zeros(channels, min(left, rate))
        yield Recording(silence, rate)
        left -= rate


def _excerpt_error(found: str, expected: str, fix: str) -> InputError:
    return InputError("There is no such part of a recording.", found=found, expected=expected, fix=fix)
