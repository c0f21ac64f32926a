"""Several recordings that sound at the same time, as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .audio import AudioStats, Recording, compute_stats, resample_pieces, stream_mono, stream_stereo

MAX_RATE = 48_000
"""Of the mix, in Hz."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Files with their stats. Levels are kept: samples are added. Where the sum would clip, all of it is made
    quieter by one factor."""

    parts: tuple[tuple[Path, AudioStats], ...]

    @property
    def sample_rate(self) -> int:
        return min(MAX_RATE, max(stats.sample_rate for _, stats in self.parts))

    @property
    def channels(self) -> int:
        return 1 if all(stats.channels == 1 for _, stats in self.parts) else 2

    def pieces(self) -> Iterator[Recording]:
        """The mix about a second at a time; the files are read twice. Raises ``AudioError``."""
        peak = max((float(piece.abs().max()) for piece in self._sums()), default=0.0)
        for piece in self._sums():
            yield Recording(piece / max(peak, 1.0), self.sample_rate)

    def _sums(self) -> Iterator[Tensor]:
        rate, stream = self.sample_rate, stream_mono if self.channels == 1 else stream_stereo
        streams = [stream(path, rate, stats) for path, stats in self.parts]
        return add_streams([(piece.view(self.channels, -1) for piece in each) for each in streams])


def mix_recordings(recordings: Sequence[Recording]) -> Recording:
    """Recordings in memory as one, as of :class:`Mix`. Raises ``AudioError``."""
    stats = [compute_stats(each) for each in recordings]
    rate = min(MAX_RATE, max(each.sample_rate for each in stats))
    channels = 1 if all(each.channels == 1 for each in stats) else 2
    streams = list[Iterator[Tensor]]()
    for recording, own in zip(recordings, stats, strict=True):
        waveform = recording.waveform.float()
        sound = own.to_mono(waveform) if channels == 1 else own.to_stereo(waveform)
        rates, length = (own.sample_rate, rate), own.length_at(rate)
        streams.append(
            piece.view(channels, -1) for piece in resample_pieces(iter([sound]), rates, length, channels)
        )
    mixed = torch.cat(list(add_streams(streams)), dim=1)
    return Recording(mixed / max(float(mixed.abs().max()), 1.0), rate)


def add_streams(streams: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    """The sum of streams of pieces [channels, n] of any lengths, as long as the longest."""
    held: list[Tensor | None] = [next(stream, None) for stream in streams]
    while parts := [piece for piece in held if piece is not None]:
        count = min(piece.shape[1] for piece in parts)
        yield torch.stack([piece[:, :count] for piece in parts]).sum(dim=0)
        for n, piece in enumerate(held):
            if piece is not None:
                rest = piece[:, count:]
                held[n] = rest if rest.shape[1] else next(streams[n], None)
