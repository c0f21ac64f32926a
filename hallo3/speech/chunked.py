"""wav2vec2 over recordings of any length: the features of ``encode_waveform`` in flat memory.

What one step puts out lies in a file before the next one reads it. Only keys and values of one head, of
one layer at a time, are held for the whole recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Protocol
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..segments import SegmentPlan
from .array_file import ArrayFile, write_array_file
from .features import ReadFeatures, Window, Windows, whole
from .wav2vec2 import NORMALISE_EPS, Layer, Wav2Vec2Parts


class Moments:
    """Running mean and population variance of each row, merged in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """The next columns [rows, n], on any device; the spread within a piece is float32's."""
        count = values.shape[1]
        variance, mean = (part.cpu().double() for part in torch.var_mean(values, dim=1, correction=0))
        total = self._count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + variance * count + difference**2 * (self._count * count / total)
        self._count = total

    @property
    def mean(self) -> Tensor:
        """[rows] float64; zero before anything was added."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """[rows] float64, of the population; zero before anything was added."""
        return self._squares / max(self._count, 1)


Spans = Iterator[tuple[int, int]]
"""Start and stop of stretches that cover something from its beginning to its end."""


class Rows(Protocol):
    """A matrix read by position, as a ``Spool`` is."""

    @property
    def rows(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """[stop - start, width] float32, in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Normalised:
    """A signal [samples, 1] at zero mean and unit variance, with zeros after it up to ``length``."""

    signal: Rows
    length: int
    mean: float
    deviation: float

    def read(self, start: int, stop: int) -> Tensor:
        """[stop - start] float32."""
        end = self.signal.rows
        values = self.signal.read(min(start, end), min(stop, end))[:, 0]
        return F.pad((values - self.mean) / self.deviation, (0, stop - start - len(values)))


def conv_frames(anatomy: Wav2Vec2Parts, length: int) -> int:
    """Conv features of a signal of so many samples."""
    sees, step = anatomy.reach
    return (length - sees) // step + 1


def normalised(signal: Rows, length: int, step: int, spans: Spans) -> Normalised:
    """What ``normalise`` and ``pad_to_segments`` make of a signal [samples, 1].

    ``spans`` cover the real samples, ``step`` of them a unit.
    """
    moments = Moments()
    for start, stop in spans:
        moments.add(signal.read(start * step, min(stop * step, signal.rows)).T)
    deviation = (moments.variance + NORMALISE_EPS).sqrt()
    return Normalised(signal, length, float(moments.mean), float(deviation))


def first_moments(anatomy: Wav2Vec2Parts, signal: Normalised, device: torch.device, spans: Spans) -> Moments:
    """Mean and variance over time of every channel that the first convolution puts out.

    ``spans`` cover the conv features; what the first convolution makes beyond the last one counts too.
    """
    conv, step = anatomy.first.conv, anatomy.reach[1]
    sees, stride = conv.kernel_size[0], conv.stride[0]
    last = conv_frames(anatomy, signal.length)
    moments = Moments()
    for start, stop in spans:
        first = start * step // stride
        end = stop * step // stride if stop < last else (signal.length - sees) // stride + 1
        read = signal.read(first * stride, (end - 1) * stride + sees)
        moments.add(conv(read.to(device)[None, None])[0])
    return moments


def convolve(
    anatomy: Wav2Vec2Parts, signal: Normalised, moments: Moments, device: torch.device, spans: Spans
) -> Iterator[Tensor]:
    """Conv features [n, C] of each span of them."""
    (sees, step), norm = anatomy.reach, anatomy.first.layer_norm
    mean, variance = (part.float().to(device) for part in (moments.mean, moments.variance))
    for start, stop in spans:
        read = signal.read(start * step, (stop - 1) * step + sees).to(device)
        found = anatomy.first.conv(read[None, None])
        weight, bias = norm.weight.to(found), norm.bias.to(found)
        found = anatomy.activation(F.batch_norm(found, mean, variance, weight, bias, eps=norm.eps))
        for layer in anatomy.others:
            found = layer(found)
        yield found[0].T


def hidden_states(
    anatomy: Wav2Vec2Parts, features: Rows, frames: int, device: torch.device, spans: Spans
) -> Iterator[Tensor]:
    """What enters the first layer [n, D], for each span of so many video frames."""
    halo = anatomy.positions.conv.kernel_size[0] // 2
    for start, stop in spans:
        first, last = max(start - halo, 0), min(stop + halo, frames)
        hidden = anatomy.project(stretched(features, frames, first, last).to(device)[None])
        hidden = (hidden + anatomy.positions(hidden))[:, start - first : stop - first]
        yield anatomy.norm(hidden)[0]


def stretched(features: Rows, frames: int, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of what ``stretch`` makes of all of the features, in its own arithmetic.

    Positions are float32: an hour from the beginning that is two hundredths of a feature.
    """
    last = features.rows - 1
    ratio = float(torch.tensor(float(last)) / (frames - 1)) if frames > 1 else 0.0
    places = torch.arange(start, stop, dtype=torch.float32) * ratio
    before = places.floor().long().clamp(max=last)
    after = (before + 1).clamp(max=last)
    share = (places - before).clamp(0, 1)[:, None]
    first = int(before[0])
    held = features.read(first, int(after[-1]) + 1)
    return held[before - first] * (1 - share) + held[after - first] * share


Cut = Callable[[int, int, int], Spans]
"""Start, stop and size -> pieces of that size, from start to stop."""


def attend(
    layer: Layer,
    head: int,
    hidden: Rows,
    device: torch.device,
    window: Window,
    cut: Cut,
    most: tuple[int, int],
) -> Iterator[Tensor]:
    """What one head sees from the frames that a window keeps, [n, D / heads] for each piece of them.

    ``cut(start, stop, size)`` makes pieces; ``most`` are the sizes, of keys and of queries. Keys and values
    of the whole window are held.
    """
    attention = layer.attention
    width = attention.q_proj.out_features // attention.num_heads
    part = slice(head * width, (head + 1) * width)
    seen, first = window.last - window.first, window.first
    keys, values = (torch.empty(1, 1, seen, width, device=device) for _ in range(2))
    for start, stop in cut(first, window.last, most[0]):
        states = hidden.read(start, stop).to(device)
        keys[0, 0, start - first : stop - first] = _project(attention.k_proj, states, part)
        values[0, 0, start - first : stop - first] = _project(attention.v_proj, states, part)
    for start, stop in cut(window.start, window.stop, most[1]):
        queries = _project(attention.q_proj, hidden.read(start, stop).to(device), part)
        yield F.scaled_dot_product_attention(queries[None, None], keys, values)[0, 0]


def _project(linear: nn.Linear, states: Tensor, part: slice) -> Tensor:
    """[n, D] -> [n, width]: some rows of a projection, whose weights may be stored in another type."""
    return F.linear(states, linear.weight[part].to(states), linear.bias[part].to(states))


def joined(
    layer: Layer, hidden: Rows, heads: Sequence[Rows], device: torch.device, spans: Spans
) -> Iterator[Tensor]:
    """The layer's output [n, D] for each span of frames, from its input and what its heads saw."""
    for start, stop in spans:
        seen = torch.cat([head.read(start, stop) for head in heads], dim=1).to(device)[None]
        states = hidden.read(start, stop).to(device)[None]
        states = layer.layer_norm(states + layer.attention.out_proj(seen))
        yield layer.final_layer_norm(states + layer.feed_forward(states))[0]


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
    anatomy: Wav2Vec2Parts,
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


def read_layers(layers: Sequence[ArrayFile]) -> ReadFeatures:
    """Features [len, layers, channels] of contiguous frames, from one spool a layer."""

    def read(frames: Sequence[int]) -> Tensor:
        return torch.stack([layer.read(frames[0], frames[-1] + 1) for layer in layers], dim=1)

    return read


@dataclass(slots=True)
class _Work:
    """The steps, each left out if what it writes is there. ``done`` counts the frames of all passes."""

    anatomy: Wav2Vec2Parts
    samples: Rows
    plan: SegmentPlan
    device: torch.device
    folder: Path
    watch: Watch
    pieces: Pieces
    windows: Sequence[Window]
    done: int = 0

    def layers(self) -> list[ArrayFile]:
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

    def _hidden(self) -> ArrayFile:
        hidden, features = self._spool("hidden"), self._features
        if hidden.complete:
            self._advance(self._first_passes)
            return hidden
        if features.complete:
            self._advance(self._first_passes - hidden.rows)
        else:
            write_array_file(features.path, self._convolved(), features.width)
        spans = self._spans(hidden.rows, self.pieces.frames)
        states = hidden_states(self.anatomy, features, hidden.rows, self.device, spans)
        write_array_file(hidden.path, states, hidden.width)
        return hidden

    def _convolved(self) -> Iterator[Tensor]:
        rows, size = self._features.rows, self.pieces.conv_frames
        step = self.anatomy.reach[1]
        units = self._spans(-(-self.samples.rows // step), size)
        signal = normalised(self.samples, self._length, step, units)
        moments = first_moments(self.anatomy, signal, self.device, self._spans(rows, size))
        return convolve(self.anatomy, signal, moments, self.device, self._spans(rows, size))

    def _layer(self, number: int, hidden: ArrayFile, output: ArrayFile) -> None:
        layer, heads = self.anatomy.layers[number], self._heads(number)
        for head, spool in enumerate(heads):
            if spool.complete:
                self._advance(self._head_passes)
            else:
                write_array_file(spool.path, self._head(layer, head, hidden), spool.width)
        spans = self._spans(hidden.rows, self.pieces.frames)
        write_array_file(output.path, joined(layer, hidden, heads, self.device, spans), output.width)
        for head in heads:
            head.remove()

    def _head(self, layer: Layer, head: int, hidden: ArrayFile) -> Iterator[Tensor]:
        for window in self.windows:
            queries = max(self.pieces.scores // (window.last - window.first), 1)
            most = self.pieces.frames, queries
            yield from attend(layer, head, hidden, self.device, window, self._between, most)

    def _spool(self, name: str, width: int | None = None) -> ArrayFile:
        return ArrayFile(self.folder / f"{name}.f32", self.plan.padded, width or self.anatomy.width)

    def _heads(self, number: int) -> list[ArrayFile]:
        count = self.anatomy.layers[number].attention.num_heads
        width = self.anatomy.width // count
        return [self._spool(f"layer_{number:02}_head_{head:02}", width) for head in range(count)]

    @property
    def _features(self) -> ArrayFile:
        rows = conv_frames(self.anatomy, self._length)
        return ArrayFile(self.folder / "conv.f32", rows, self.anatomy.conv_width)

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


AT_ONCE = 1 << 20
"""Samples that are written at once."""


def encode_aside(
    anatomy: Wav2Vec2Parts,
    waveform: Tensor,
    plan: SegmentPlan,
    device: torch.device,
    watch: Watch = unwatched,
    *,
    windows: Windows | None = None,
    inside: Path | None = None,
) -> ReadFeatures:
    """``encode_streamed`` for a mono waveform [samples] in memory, in a temporary folder that goes with the
    last who can ask; ``inside`` this one, or the system's own."""
    folder = Path(mkdtemp(prefix="hallo3_speech_", dir=inside))
    try:
        pieces = (waveform[start : start + AT_ONCE, None] for start in range(0, len(waveform), AT_ONCE))
        signal = write_array_file(folder / "signal.f32", pieces, 1)
        read = encode_streamed(anatomy, signal, plan, device, folder, watch, windows=windows)
        signal.remove()
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    finalize(read, rmtree, folder, ignore_errors=True)
    return read
