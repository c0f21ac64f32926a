"""wav2vec2 over recordings of any length: the features of ``encode_waveform`` in flat memory.

What one step puts out lies in a file before the next one reads it. Only keys and values of one head, of
one layer at a time, are held for the whole recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ..segments import SegmentPlan
from .anatomy import Anatomy, Layer
from .attended import attend, joined
from .convolved import Rows, Spans, conv_frames, convolve, first_moments, hidden_states, normalised
from .speech import ReadFeatures
from .spool import Spool, write_spool
from .windowed import Window, Windows, whole

Watch = Callable[[int, int], object]
"""Hears (done, total) several times a second; what it raises stops the work, to be gone on with later."""


def unwatched(done: int, total: int) -> None:
    """Nobody is told how far it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """How much is computed at once: it decides memory and how soon a stop is heard, not the result.

    ``conv_frames`` are conv features (320 samples each), ``frames`` video frames, ``scores`` queries
    times keys.
    """

    conv_frames: int = 100
    frames: int = 512
    scores: int = 1 << 25

    @classmethod
    def suiting(cls, device: torch.device) -> Pieces:
        """Some tenths of a second of work."""
        return cls() if device.type == "cpu" else cls(scores=1 << 31)


def encode_streamed(
    anatomy: Anatomy,
    samples: Rows,
    plan: SegmentPlan,
    device: torch.device,
    folder: Path,
    watch: Watch = unwatched,
    pieces: Pieces | None = None,
    windows: Windows | None = None,
) -> ReadFeatures:
    """Mono signal [samples, 1] at the plan's rate -> its features, read from ``folder`` when asked.

    ``device`` is where the network stands. ``windows`` ask for the approximation of :mod:`.windowed`; left
    out, every frame attends to the whole recording. The folder belongs to this recording, these weights and
    these windows alone: its complete layers (``layer_00.f32`` and on, [plan.padded, channels]) are used as
    they are, and work goes on after the last of them. Raises ``OutputError`` if files cannot be written or
    are damaged, and what ``watch`` raises; no file of a final name is ever half written.
    """
    with torch.no_grad():
        seen = whole(plan.padded) if windows is None else windows.over(plan.padded)
        work = _Work(anatomy, samples, plan, device, folder, watch, pieces or Pieces.suiting(device), seen)
        layers = work.layers()
    return read_layers(layers)


def read_layers(layers: Sequence[Spool]) -> ReadFeatures:
    """Features [len, layers, channels] of contiguous frames, from one spool a layer."""

    def read(frames: Sequence[int]) -> Tensor:
        return torch.stack([layer.read(frames[0], frames[-1] + 1) for layer in layers], dim=1)

    return read


@dataclass(slots=True)
class _Work:
    """The steps, each left out if what it writes is there. ``done`` counts the frames of all passes."""

    anatomy: Anatomy
    samples: Rows
    plan: SegmentPlan
    device: torch.device
    folder: Path
    watch: Watch
    pieces: Pieces
    windows: Sequence[Window]
    done: int = 0

    def layers(self) -> list[Spool]:
        """Every layer's output, complete."""
        numbers = range(len(self.anatomy.layers))
        layers = [self._spool(f"layer_{number:02}") for number in numbers]
        kept = next((number for number in numbers if not layers[number].complete), len(layers))
        self._advance(sum(self._layer_passes[:kept]) + (self._first_passes if kept else 0))
        hidden = layers[kept - 1] if kept else self._hidden()
        for number in numbers[kept:]:
            self._layer(number, hidden, layers[number])
            hidden = layers[number]
        self._features.remove()
        self._spool("hidden").remove()
        for head in chain.from_iterable(map(self._heads, numbers)):
            head.remove()
        return layers

    def _hidden(self) -> Spool:
        hidden, features = self._spool("hidden"), self._features
        if hidden.complete:
            self._advance(self._first_passes)
            return hidden
        if features.complete:
            self._advance(self._first_passes - hidden.rows)
        else:
            write_spool(features.path, self._convolved(), features.width)
        spans = self._spans(hidden.rows, self.pieces.frames)
        states = hidden_states(self.anatomy, features, hidden.rows, self.device, spans)
        write_spool(hidden.path, states, hidden.width)
        return hidden

    def _convolved(self) -> Iterator[Tensor]:
        rows, size = self._features.rows, self.pieces.conv_frames
        step = self.anatomy.reach[1]
        units = self._spans(-(-self.samples.rows // step), size)
        signal = normalised(self.samples, self._length, step, units)
        moments = first_moments(self.anatomy, signal, self.device, self._spans(rows, size))
        return convolve(self.anatomy, signal, moments, self.device, self._spans(rows, size))

    def _layer(self, number: int, hidden: Spool, output: Spool) -> None:
        layer, heads = self.anatomy.layers[number], self._heads(number)
        for head, spool in enumerate(heads):
            if spool.complete:
                self._advance(self._head_passes)
            else:
                write_spool(spool.path, self._head(layer, head, hidden), spool.width)
        spans = self._spans(hidden.rows, self.pieces.frames)
        write_spool(output.path, joined(layer, hidden, heads, self.device, spans), output.width)
        for head in heads:
            head.remove()

    def _head(self, layer: Layer, head: int, hidden: Spool) -> Iterator[Tensor]:
        for window in self.windows:
            queries = max(self.pieces.scores // (window.last - window.first), 1)
            most = self.pieces.frames, queries
            yield from attend(layer, head, hidden, self.device, window, self._between, most)

    def _spool(self, name: str, width: int | None = None) -> Spool:
        return Spool(self.folder / f"{name}.f32", self.plan.padded, width or self.anatomy.width)

    def _heads(self, number: int) -> list[Spool]:
        count = self.anatomy.layers[number].attention.num_heads
        width = self.anatomy.width // count
        return [self._spool(f"layer_{number:02}_head_{head:02}", width) for head in range(count)]

    @property
    def _features(self) -> Spool:
        rows = conv_frames(self.anatomy, self._length)
        return Spool(self.folder / "conv.f32", rows, self.anatomy.conv_width)

    @property
    def _length(self) -> int:
        """Samples with the zeros that fill the last segment."""
        per_frame = self.plan.config.sample_rate // self.plan.config.fps
        return self.samples.rows + (self.plan.padded - self.plan.frames) * per_frame

    @property
    def _first_passes(self) -> int:
        units = -(-self.samples.rows // self.anatomy.reach[1])
        return units + 2 * self._features.rows + self.plan.padded

    @property
    def _layer_passes(self) -> list[int]:
        """Those of its heads and one that joins them."""
        return [
            self._head_passes * layer.attention.num_heads + self.plan.padded for layer in self.anatomy.layers
        ]

    @property
    def _head_passes(self) -> int:
        """Once for keys, in every window, and once for queries."""
        return sum(window.last - window.first for window in self.windows) + self.plan.padded

    def _spans(self, total: int, size: int) -> Spans:
        return self._between(0, total, size)

    def _between(self, first: int, last: int, size: int) -> Spans:
        for start in range(first, last, size):
            stop = min(start + size, last)
            yield start, stop
            self._advance(stop - start)

    def _advance(self, passed: int) -> None:
        self.done += passed
        self.watch(self.done, self._first_passes + sum(self._layer_passes))
