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

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from ..errors import AudioError, CheckpointError
from ..onnxfile.network import Expected, Network, Origin, open_network
from .mdx import BINS, FRAMES, RATE, STEP, blend, cut, sound_of, spectrogram

FILE = "Kim_Vocal_2.onnx"
PUBLISHED = "ce74ef3b6a6024ce44211a07be9cf8bc6d87728cc852a68ab34eb8e58cde9c8b"
"""SHA-256 of the file that Hallo3's authors use."""
LOUDEST = 0.9
"""A recording with a higher peak is made quieter for the network, as in the original."""
SHAPE = (1, 4, BINS, FRAMES)
EXPECTED = Expected(input=(None, *SHAPE[1:]), outputs=1, channels=(FRAMES,))

VOCALS = Origin(
    what="The vocal separator",
    belongs_to="Ultimate Vocal Remover's models",
    terms="Its weights were published without a licence of their own (Kimberley Jensen's, for UVR).",
    where="take it from audio_separator of fudan-generative-ai/hallo3 on huggingface.co, and put it there",
    need="Separating vocals needs",
    instead="leave the recording as it is",
)

Watch = Callable[[int, int], object]
"""Hears (samples done, samples in all) after every window; what it raises stops the work."""


def unwatched(done: int, total: int) -> None:
    """Nobody is told how far it has come."""


@dataclass(frozen=True)
class Separator:
    """Takes the vocals out of recordings with the network in a file, opened when it is first used."""

    path: Path

    @cached_property
    def network(self) -> Network:
        """The network; errors as of :func:`open_network`. Warns of a file that is not the published one."""
        network = open_network(self.path, EXPECTED, VOCALS)
        if sha256(self.path.read_bytes()).hexdigest() != PUBLISHED:
            warnings.warn(
                f"{self.path.name} is not the published Kim_Vocal_2: it may give something else than vocals.",
                stacklevel=3,
            )
        return network

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
                do=f"use the file {FILE} of {VOCALS.belongs_to}",
            )
        vocals = sound_of(answers[0])
        if not bool(vocals.isfinite().all()):
            raise AudioError(
                "The vocal separator's answer cannot be used.",
                found=f"numbers that are not finite, near {number * STEP / RATE:.1f} s",
                expected="finite numbers",
                do=f"download {self.path.name} again, or leave the recording as it is",
            )
        return vocals
