"""Causal 3 x 3 x 3 convolutions, strip by strip, whose input is written straight into their buffer.

The buffer of a strip holds the two frames before the slice and one row of halo above and below. Its last
two rows are carried on into the next strip's, so that every row is made once, and what a strip puts out lies
wholly above the rows that are still to be read: the output may take the input's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .access import Access
from .caches import CausalCache
from .plan import LOOK_BACK

Fill = Callable[[Tensor, int, int], None]
"""Writes rows first..last of a convolution's input into a destination [B, C, T, rows, W]."""


class Strip(NamedTuple):
    """Rows first..last of an output, [B, C, T, rows, W]."""

    first: int
    last: int
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """What a convolution is given: the way its rows are made, its shape [B, C, T, H, W], a tensor like it."""

    fill: Fill
    shape: torch.Size
    like: Tensor

    def buffer(self, rows: int) -> Tensor:
        """Room for so many rows of the slice and of the frames before it."""
        batch, channels, frames, _, width = self.shape
        return self.like.new_empty(batch, channels, LOOK_BACK + frames, rows, width)


@dataclass(frozen=True, slots=True)
class Convolver:
    """Causal convolutions over one cache."""

    cache: CausalCache
    access: Access

    def strips(
        self, name: str, convolution: nn.Module, source: Source, cuts: Sequence[tuple[int, int]]
    ) -> Iterator[Strip]:
        """The output of a causal convolution, top to bottom. ``cuts`` are the rows of input made at a time;
        the output of a strip ends a row before its input does, but for the last one's. The layer is borrowed
        until the last strip is taken: borrow no other meanwhile."""
        layer = cast(Any, convolution).conv
        with self.access.parameters(layer, source.like) as (weight, bias):
            if len(cuts) == 1:
                buffer = source.buffer(source.shape[3])
                self._write((name, 0), source, buffer, cuts[0])
                made = self.access.convolve(buffer, weight, bias, (0, 1, 1))
                del buffer
                yield Strip(*cuts[0], made)
                return
            above = source.buffer(1).zero_()
            done = 0
            for index, cut in enumerate(cuts):
                buffer = self._joined((name, index), source, above, cut, last=index == len(cuts) - 1)
                above = buffer[:, :, :, -2:].clone()
                count = buffer.shape[3] - 2
                if count:
                    made = self.access.convolve(buffer, weight, bias, (0, 0, 1))
                    del buffer
                    yield Strip(done, done + count, made)
                    del made
                done += count

    def _joined(
        self, key: tuple[str, int], source: Source, above: Tensor, cut: tuple[int, int], *, last: bool
    ) -> Tensor:
        """A strip's buffer: the rows carried on, its own, and below the last strip's a row of zeros."""
        carried, own = above.shape[3], cut[1] - cut[0]
        buffer = source.buffer(carried + own + last)
        buffer[:, :, :, :carried] = above
        if last:
            buffer[:, :, :, -1].zero_()
        self._write(key, source, buffer[:, :, :, carried : carried + own], cut)
        return buffer

    def _write(self, key: tuple[str, int], source: Source, buffer: Tensor, cut: tuple[int, int]) -> None:
        """Make a strip's own rows and put the frames before them there: before the first slice, its first."""
        source.fill(buffer[:, :, LOOK_BACK:], *cut)
        before = buffer[:, :, :LOOK_BACK]
        if not self.cache.load(key, before):
            before.copy_(buffer[:, :, LOOK_BACK : LOOK_BACK + 1].expand_as(before))
        self.cache.keep(key, buffer[:, :, -LOOK_BACK:])


def copied(tensor: Tensor) -> Source:
    """A tensor as it is."""

    def fill(destination: Tensor, first: int, last: int) -> None:
        destination.copy_(tensor[:, :, :, first:last])

    return Source(fill, tensor.shape, tensor)
