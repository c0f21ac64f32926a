"""The first half of wav2vec2 in pieces: from a signal on disk to hidden states, one a video frame.

Every border is crossed with the overlap that the convolutions need, so that the pieces equal the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .anatomy import Anatomy
from .encoder import NORMALISE_EPS
from .moments import Moments

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


def conv_frames(anatomy: Anatomy, length: int) -> int:
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


def first_moments(anatomy: Anatomy, signal: Normalised, device: torch.device, spans: Spans) -> Moments:
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
    anatomy: Anatomy, signal: Normalised, moments: Moments, device: torch.device, spans: Spans
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
    anatomy: Anatomy, features: Rows, frames: int, device: torch.device, spans: Spans
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
