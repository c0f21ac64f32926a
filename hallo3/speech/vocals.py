"""The vocals of a recording, without music, by Kim_Vocal_2.onnx (an MDX-Net, arXiv 2111.12203).

Hallo3's authors separate every recording with audio-separator (0.17.2 where Hallo names a version) at its
defaults (facts 8). The tool writes 16-bit files and holds the whole recording; here it is a stream. Same:
sizes of the transform, windows that overlap by a quarter with Hann weights, a peak of at most 0.9 for the
network, no denoising (a second run of the network). Different: no constant gain of 1.009 and no second
normalization, as the speech encoder normalizes; no rounding to 16 bits; windows of digital silence are not
computed, and silence is no error; more than two channels are mixed, where the tool fails; the peak is that of
the recording, not of its resampling.

The file's sizes and SHA-256 agree in UVR's table of models and in three other projects; we have not run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import AudioError, CheckpointError
from ..media.audio import AudioStats, Recording, compute_stats, resample_pieces, stream_stereo
from ..onnx_model import Expected, Network, Origin, open_network
from ..progress import OpenProgress, no_display

RATE = 44100
"""Sample rate of the network, in stereo."""
FFT_SIZE, HOP = 7680, 1024
BINS, FRAMES = 3072, 256
"""The network gets the bins below 17 640 Hz, and 5.9 s."""
ZEROED_BINS = 3
"""Lowest bins, up to 17 Hz, which the network gets as zeros."""
WINDOW = HOP * (FRAMES - 1)
STEP = WINDOW * 3 // 4
"""Samples per window, and from one to the next."""
MARGIN = FFT_SIZE // 2
"""Zeros before a recording, so that its start is not at a window's edge."""
MAX_PEAK = 0.9
"""A recording with a higher peak is scaled down for the network, as in the original."""
SHAPE = (1, 4, BINS, FRAMES)

VOCALS_FILENAME = "Kim_Vocal_2.onnx"
EXPECTED = Expected(
    sha256="ce74ef3b6a6024ce44211a07be9cf8bc6d87728cc852a68ab34eb8e58cde9c8b",
    input=(None, *SHAPE[1:]),
    channels=(FRAMES,),
)
"""The file that Hallo3's authors use."""
VOCALS = Origin(
    what="The vocal separator",
    belongs_to="Ultimate Vocal Remover's models",
    terms="Its weights were published without a licence of their own (Kimberley Jensen's, for UVR).",
    where="take it from audio_separator of fudan-generative-ai/hallo3 on huggingface.co, and put it there",
    need="Separating vocals needs",
    instead="leave the recording as it is",
    accept="the command uses another one unverified with --vocals FILE",
)


def window_spans(samples: int) -> list[tuple[int, int]]:
    """(start, size) of each window of a recording, in samples from the start of the margin."""
    inner = WINDOW - 2 * MARGIN
    end = samples + MARGIN + (inner + MARGIN - samples % inner)
    starts = range(0, MARGIN + samples, STEP) if samples else ()
    return [(start, min(WINDOW, end - start)) for start in starts]


def cut_windows(pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """The windows [2, WINDOW] of pieces [2, n], ``samples`` in total, zeros around them. Holds a window and a
    piece. Raises ``ValueError`` for a stream of another length."""
    source, total = iter(pieces), 0
    buffer, position = torch.zeros(2, MARGIN), 0
    for start, _ in window_spans(samples):
        parts, position = [buffer[:, start - position :]], start
        size = parts[0].shape[1]
        while size < WINDOW and (piece := next(source, None)) is not None:
            if piece.ndim != 2 or len(piece) != 2:
                raise ValueError(f"a piece {list(piece.shape)} of a stream [2, n]")
            parts.append(piece.float())
            size, total = size + piece.shape[1], total + piece.shape[1]
        buffer = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        yield F.pad(buffer[:, :WINDOW], (0, max(0, WINDOW - size)))
    total += sum(piece.shape[1] for piece in source)
    if total != samples:
        raise ValueError(f"{total} samples in a stream of {samples}")


def overlap_add(outputs: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """The network's windows [2, WINDOW] -> the recording [2, samples] in pieces, Hann-weighted."""
    spans = window_spans(samples)
    total, weight = torch.zeros(2, WINDOW), torch.zeros(WINDOW)
    for number, ((start, size), output) in enumerate(zip(spans, outputs, strict=True), start=1):
        hann = torch.hann_window(size, periodic=False)
        total[:, :size] += output[:, :size] * hann
        weight[:size] += hann
        stop = spans[number][0] if number < len(spans) else MARGIN + samples
        ready = slice(max(MARGIN - start, 0), stop - start)
        yield total[:, ready] / weight[ready]
        total, weight = F.pad(total[:, STEP:], (0, STEP)), F.pad(weight[STEP:], (0, STEP))


def spectrogram(window: Tensor) -> Tensor:
    """[2, WINDOW] -> [1, 4, BINS, FRAMES]: left and right, each real and imaginary part."""
    bins = torch.stft(window, FFT_SIZE, HOP, window=torch.hann_window(FFT_SIZE), return_complex=True)
    parts = torch.view_as_real(bins[:, :BINS]).permute(0, 3, 1, 2).reshape(SHAPE).contiguous()
    parts[:, :, :ZEROED_BINS] = 0
    return parts


def invert_spectrogram(parts: Tensor) -> Tensor:
    """[1, 4, BINS, FRAMES] -> [2, WINDOW]; bins that the network does not have are zero."""
    pairs = parts.reshape(2, 2, BINS, FRAMES).permute(0, 2, 3, 1).contiguous()
    bins = F.pad(torch.view_as_complex(pairs), (0, 0, 0, FFT_SIZE // 2 + 1 - BINS))
    return cast(Tensor, torch.istft(bins, FFT_SIZE, HOP, window=torch.hann_window(FFT_SIZE)))


@dataclass(frozen=True)
class Separator:
    """The network in the file ``path``, opened when it is first used."""

    path: Path
    unverified: bool = False

    @cached_property
    def network(self) -> Network:
        """Raises and warns as ``open_network``."""
        return open_network(self.path, EXPECTED, VOCALS, unverified=self.unverified)

    def separate(
        self,
        pieces: Iterable[Tensor],
        samples: int,
        peak: float = 0.0,
        open_progress: OpenProgress = no_display,
    ) -> Iterator[Tensor]:
        """The vocals of a stereo stream at 44.1 kHz of ``samples`` in total: pieces [2, n]. ``peak`` is the
        stream's, 0 if unknown.

        Holds two windows and a piece. Raises ``AudioError`` for a result that is not finite,
        ``CheckpointError`` if the network cannot be used, ``ValueError`` for a stream of another length.
        """
        scale = min(1.0, MAX_PEAK / peak) if peak > 0 else 1.0
        windows = enumerate(cut_windows(pieces, samples))
        with open_progress("separating vocals", samples) as progress:
            for piece in overlap_add((self._run(window * scale, n) for n, window in windows), samples):
                yield piece / scale
                progress(piece.shape[1])

    def _run(self, window: Tensor, number: int) -> Tensor:
        if not bool(window.any()):
            return window
        outputs = self.network(spectrogram(window))
        if len(outputs) != 1 or tuple(outputs[0].shape) != SHAPE:
            raise CheckpointError(
                "The vocal separator's file holds another network.",
                found=f"{self.path.name}: {', '.join(str(list(each.shape)) for each in outputs)}"[:300],
                expected=f"one output {list(SHAPE)}",
                fix=f"use the file {VOCALS_FILENAME} of {VOCALS.belongs_to}",
            )
        vocals = invert_spectrogram(outputs[0])
        if not bool(vocals.isfinite().all()):
            raise AudioError(
                "The vocal separator's output cannot be used.",
                found=f"NaN or infinity near {number * STEP / RATE:.1f} s",
                expected="finite numbers",
                fix=f"download {self.path.name} again, or leave the recording as it is",
            )
        return vocals


def stream_vocals(
    path: Path,
    sample_rate: int,
    stats: AudioStats,
    separator: Separator,
    open_progress: OpenProgress = no_display,
) -> Iterator[Tensor]:
    """``stream_mono`` of the vocals: as many samples, [n] per piece, so the plan of segments is the same. As
    in the original, vocals are separated in stereo at 44.1 kHz and mixed and resampled after that (facts 8).
    Raises what ``stream_mono`` raises and, before it returns, what opening the network raises."""
    _ = separator.network
    stereo = stream_stereo(path, RATE, stats)
    return _mix_vocals(stereo, sample_rate, stats, separator, open_progress)


def separate_vocals(
    recording: Recording, sample_rate: int, separator: Separator, open_progress: OpenProgress = no_display
) -> Tensor:
    """``stream_vocals`` of a recording in memory: [samples], as long as ``to_mono`` makes it."""
    _ = separator.network
    stats = compute_stats(recording)
    stats.warn()
    rate, waveform = recording.sample_rate, recording.waveform.float()
    pieces = (stats.to_stereo(piece) for piece in torch.split(waveform, rate, dim=1))
    stereo = resample_pieces(pieces, (rate, RATE), stats.length_at(RATE), channels=2)
    return torch.cat(list(_mix_vocals(stereo, sample_rate, stats, separator, open_progress)))


def _mix_vocals(
    stereo: Iterator[Tensor],
    sample_rate: int,
    stats: AudioStats,
    separator: Separator,
    open_progress: OpenProgress,
) -> Iterator[Tensor]:
    peak = stats.peak if stats.channels <= 2 else stats.mono_peak
    vocals = separator.separate(stereo, stats.length_at(RATE), peak, open_progress)
    mono = (piece.mean(dim=0) for piece in vocals)
    return resample_pieces(mono, (RATE, sample_rate), stats.length_at(sample_rate))
