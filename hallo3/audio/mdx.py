"""What an MDX-Net sees of a recording, and what is made of its answers: windows of spectrograms, blended.

Sizes are Kim_Vocal_2's. Windows, their overlap and how they are blended are those of audio-separator 0.17.2,
the tool of Hallo3's authors, so that every sample has the weights it has there (decision 011).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 44100
"""Samples a second of what the network was trained on, in stereo."""
FFT, HOP = 7680, 1024
BINS, FRAMES = 3072, 256
"""Of the transform's 3841 bins the network sees those below 17 640 Hz; of time, 5.9 s."""
INAUDIBLE = 3
"""Lowest bins, up to 17 Hz, that the network is given as zeros."""
LENGTH = HOP * (FRAMES - 1)
"""Samples of a window."""
STEP = LENGTH * 3 // 4
"""Samples from one window to the next, 4.4 s: a quarter of each is seen twice."""
MARGIN = FFT // 2
"""Zeros before a recording, so that its start is not at a window's edge."""

Window = tuple[int, int]
"""Where a window starts, in samples with the margin, and how many of its samples count."""


def windows(samples: int) -> list[Window]:
    """The windows of a recording of so many samples, in order; none reaches over more than one border."""
    inner = LENGTH - 2 * MARGIN
    end = samples + MARGIN + (inner + MARGIN - samples % inner)
    starts = range(0, MARGIN + samples, STEP) if samples else ()
    return [(start, min(LENGTH, end - start)) for start in starts]


def cut(pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """The recording's windows [2, LENGTH], from pieces [2, n] with ``samples`` in all; zeros around them.

    No more than a window and a piece is held. Raises ``ValueError`` for a stream of another length.
    """
    source, seen = iter(pieces), 0
    held, at = torch.zeros(2, MARGIN), 0
    for start, _ in windows(samples):
        parts, at = [held[:, start - at :]], start
        there = parts[0].shape[1]
        while there < LENGTH and (piece := next(source, None)) is not None:
            if piece.ndim != 2 or len(piece) != 2:
                raise ValueError(f"a piece {list(piece.shape)} of a stream [2, n]")
            parts.append(piece.float())
            there, seen = there + piece.shape[1], seen + piece.shape[1]
        held = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        yield F.pad(held[:, :LENGTH], (0, max(0, LENGTH - there)))
    seen += sum(piece.shape[1] for piece in source)
    if seen != samples:
        raise ValueError(f"{seen} samples in a stream of {samples}")


def blend(answers: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """What was answered for the windows [2, LENGTH] -> the recording [2, samples], in pieces.

    Where two windows overlap, each counts by its Hann window; together they count one everywhere.
    """
    spans = windows(samples)
    total, weight = torch.zeros(2, LENGTH), torch.zeros(LENGTH)
    for number, ((start, size), answer) in enumerate(zip(spans, answers, strict=True), start=1):
        shape = torch.hann_window(size, periodic=False)
        total[:, :size] += answer[:, :size] * shape
        weight[:size] += shape
        stop = spans[number][0] if number < len(spans) else MARGIN + samples
        ready = slice(max(MARGIN - start, 0), stop - start)
        yield total[:, ready] / weight[ready]
        total, weight = F.pad(total[:, STEP:], (0, STEP)), F.pad(weight[STEP:], (0, STEP))


def spectrogram(window: Tensor) -> Tensor:
    """[2, LENGTH] -> [1, 4, BINS, FRAMES]: left and right, each real and imaginary part."""
    seen = torch.stft(window, FFT, HOP, window=torch.hann_window(FFT), center=True, return_complex=True)
    parts = torch.view_as_real(seen[:, :BINS]).permute(0, 3, 1, 2).reshape(1, 4, BINS, FRAMES).contiguous()
    parts[:, :, :INAUDIBLE] = 0
    return parts


def sound_of(parts: Tensor) -> Tensor:
    """[1, 4, BINS, FRAMES] -> [2, LENGTH]; what the network does not see is silence."""
    pairs = parts.reshape(2, 2, BINS, FRAMES).permute(0, 2, 3, 1).contiguous()
    whole = F.pad(torch.view_as_complex(pairs), (0, 0, 0, FFT // 2 + 1 - BINS))
    return cast(Tensor, torch.istft(whole, FFT, HOP, window=torch.hann_window(FFT), center=True))
