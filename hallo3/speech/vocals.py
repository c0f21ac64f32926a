"""The vocals of a recording: a speaker without the music, by Kim_Vocal_2.onnx (an MDX-Net, arXiv 2111.12203).

Hallo3's authors separate every recording in this way before they listen to it (facts 8), by audio-separator
(0.17.2 where Hallo names a version) at its defaults. Kept from it: the sizes of ``mdx``, windows that overlap
by a quarter and count by their Hann window, a peak of at most 0.9 for what the network sees, no denoising
(the network would run twice).

Different, on purpose: the tool's constant gain of 1.009 and its second look at the peak are left out, and
the recording keeps its loudness: what listens normalises it. Nothing is rounded to 16 bits in between. A
window of digital silence is not computed, and silence is no error. More than two channels are mixed, where
the tool fails. The peak is the recording's, not that of its resampling.

The file's facts (66 759 214 bytes, SHA-256, shapes, ``mdx_n_fft_scale_set`` 7680, ``mdx_dim_f_set`` 3072,
``mdx_dim_t_set`` 8, vocals) agree in UVR's table of models and in what three other projects measured; the
file itself was not at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


FILE = "Kim_Vocal_2.onnx"
LOUDEST = 0.9
"""A recording with a higher peak is made quieter for the network, as in the original."""
SHAPE = (1, 4, BINS, FRAMES)
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

Watch = Callable[[int, int], object]
"""Hears (samples done, samples in all) after every window; what it raises stops the work."""


def unwatched(done: int, total: int) -> None:
    """Nobody is told how far it has come."""


@dataclass(frozen=True)
class Separator:
    """Takes the vocals out of recordings with the network in a file, opened when it is first used."""

    path: Path
    unverified: bool = False

    @cached_property
    def network(self) -> Network:
        """Errors as of :func:`open_network`."""
        return open_network(self.path, EXPECTED, VOCALS, unverified=self.unverified)

    def separate(
        self, pieces: Iterable[Tensor], samples: int, loudest: float = 0.0, watch: Watch = unwatched
    ) -> Iterator[Tensor]:
        """The vocals [2, n] of a stereo stream of pieces [2, m] at 44.1 kHz, ``samples`` in all, as many as
        come in; above 17 640 Hz they are silent. ``loudest`` is the stream's peak, if it is known.

        In flat memory: two windows of 6 s and a piece are held. Raises ``AudioError`` for an answer that is
        not finite, ``CheckpointError`` when the network cannot be used, ``ValueError`` for another length.
        """
        scale = min(1.0, LOUDEST / loudest) if loudest > 0 else 1.0
        answers = (self._vocals(window * scale, at) for at, window in enumerate(cut(pieces, samples)))
        done = 0
        for piece in blend(answers, samples):
            yield piece / scale
            done += piece.shape[1]
            watch(done, samples)

    def _vocals(self, window: Tensor, number: int) -> Tensor:
        """Of [2, LENGTH] the same."""
        if not bool(window.any()):
            return window
        answers = self.network(spectrogram(window))
        if len(answers) != 1 or tuple(answers[0].shape) != SHAPE:
            raise CheckpointError(
                "The vocal separator's file holds another network.",
                found=f"{self.path.name}: {', '.join(str(list(each.shape)) for each in answers)}"[:300],
                expected=f"one answer {list(SHAPE)}",
                fix=f"use the file {FILE} of {VOCALS.belongs_to}",
            )
        vocals = sound_of(answers[0])
        if not bool(vocals.isfinite().all()):
            raise AudioError(
                "The vocal separator's answer cannot be used.",
                found=f"numbers that are not finite, near {number * STEP / RATE:.1f} s",
                expected="finite numbers",
                fix=f"download {self.path.name} again, or leave the recording as it is",
            )
        return vocals


def stream_voice(
    path: Path, sample_rate: int, facts: AudioStats, separator: Separator, watch: Watch = unwatched
) -> Iterator[Tensor]:
    """What ``stream_mono`` gives of a recording with its vocals alone: pieces [n] at ``sample_rate``.

    They have ``facts.length_at(sample_rate)`` samples in all, as without separation, so that the plan of
    segments is the same. As in the original, vocals are taken out in stereo at 44.1 kHz and become mono at
    ``sample_rate`` after that (facts 8). Raises what ``stream_mono`` raises and, before it returns, what
    opening the network does.
    """
    _ = separator.network
    stereo = stream_stereo(path, RATE, facts)
    return _voice(stereo, sample_rate, facts, separator, watch)


def voice_of(
    recording: Recording, sample_rate: int, separator: Separator, watch: Watch = unwatched
) -> Tensor:
    """``stream_voice`` of a recording in memory, [samples] float32; as long as ``to_mono`` would make it."""
    _ = separator.network
    facts = compute_stats(recording)
    facts.tell()
    rate, waveform = recording.sample_rate, recording.waveform.float()
    starts = range(0, waveform.shape[1], rate)
    pieces = (facts.stereo(waveform[:, start : start + rate]) for start in starts)
    stereo = resample_pieces(pieces, (rate, RATE), facts.length_at(RATE), channels=2)
    return torch.cat(list(_voice(stereo, sample_rate, facts, separator, watch)))


def _voice(
    stereo: Iterator[Tensor], sample_rate: int, facts: AudioStats, separator: Separator, watch: Watch
) -> Iterator[Tensor]:
    loudest = facts.loudest if facts.channels <= 2 else facts.mixed
    vocals = separator.separate(stereo, facts.length_at(RATE), loudest, watch)
    mono = (piece.mean(dim=0) for piece in vocals)
    return resample_pieces(mono, (RATE, sample_rate), facts.length_at(sample_rate))
