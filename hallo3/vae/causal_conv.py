"""Causal 3 x 3 x 3 convolutions, strip by strip, whose input is written straight into their buffer.

The buffer of a strip holds the two frames before the slice and one row of halo above and below. Its last
two rows are carried on into the next strip's, so that every row is made once, and what a strip puts out lies
wholly above the rows that are still to be read: the output may take the input's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..residency import PinnedAllocator
from .tiling import LOOK_BACK

Key = tuple[str, int]
"""A convolution's name, and a strip of its rows."""


class CausalCache(Protocol):
    """The last two frames before every convolution. A value of one decode; no module holds any of it."""

    def load(self, key: Key, destination: Tensor) -> bool:
        """Write what is kept under a key into ``destination`` [B, C, 2, rows, W]; False if nothing is."""
        ...

    def keep(self, key: Key, frames: Tensor) -> None:
        """Keep frames [B, C, 2, rows, W] in place of those before them."""
        ...


class DeviceCache:
    """Kept where the computation is, one tensor for every key, written over slice after slice."""

    def __init__(self) -> None:
        self._kept: dict[Key, Tensor] = {}

    def load(self, key: Key, destination: Tensor) -> bool:
        """See :class:`CausalCache`."""
        kept = self._kept.get(key)
        if kept is not None:
            destination.copy_(kept)
        return kept is not None

    def keep(self, key: Key, frames: Tensor) -> None:
        """See :class:`CausalCache`."""
        if key in self._kept:
            self._kept[key].copy_(frames)
        else:
            self._kept[key] = frames.clone(memory_format=torch.contiguous_format)


class HostCache:
    """Kept in the host's memory; for CUDA in locked memory, where copies are queued behind the computation
    and not waited for; they are waited for where no more memory is locked. Both ends of a copy are
    contiguous, since others are copied twice."""

    def __init__(self) -> None:
        self._kept: dict[Key, Tensor] = {}
        self._locking = PinnedAllocator()

    def load(self, key: Key, destination: Tensor) -> bool:
        """See :class:`CausalCache`."""
        kept = self._kept.get(key)
        if kept is not None:
            there = kept.to(destination.device, non_blocking=destination.is_cuda and kept.is_pinned())
            destination.copy_(there)
        return kept is not None

    def keep(self, key: Key, frames: Tensor) -> None:
        """See :class:`CausalCache`."""
        if key not in self._kept:
            locking = self._locking if frames.is_cuda else PinnedAllocator(wanted=False)
            self._kept[key] = locking.empty(frames.shape, frames.dtype)
        kept = self._kept[key]
        kept.copy_(frames.contiguous(), non_blocking=frames.is_cuda and kept.is_pinned())


def cache_in(place: str) -> CausalCache:
    """An empty cache in a place of :data:`hallo3.vae.plan.CACHES`."""
    return HostCache() if place == "host" else DeviceCache()


WORTH_IT = 10_000
"""Elements of the input above which oneDNN's preparation pays."""


class OneDNNConvolutions(TorchFunctionMode):
    """While entered, ``conv3d`` of float32 CPU tensors without gradients runs in oneDNN."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv3d and not kwargs and len(args) == 7 and _suits(args[0], args[1]):
            signal, weight, bias, stride, padding, dilation, groups = args
            return _convolve(signal, weight, bias, padding, stride, dilation, groups)
        return func(*args, **kwargs)


_convolve = cast(Callable[..., Tensor], getattr(torch, "mkldnn_convolution", None))


def _suits(signal: Tensor, weight: Tensor) -> bool:
    return (
        signal.numel() >= WORTH_IT
        and weight[0, 0].numel() > 1
        and signal.device.type == "cpu"
        and signal.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    )


Held = tuple[Tensor, Tensor | None]
"""A layer's weight and bias."""


def own_parameters(layer: nn.Module, like: Tensor) -> AbstractContextManager[Held]:
    """The layer's parameters as they are."""
    del like
    known = cast(Any, layer)
    return nullcontext((known.weight, known.bias))


def convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """torch's own 3D convolution at stride 1, by oneDNN where that is quicker."""
    with OneDNNConvolutions():
        return torch.conv3d(signal, weight, bias, (1, 1, 1), padding, (1, 1, 1), 1)


@dataclass(frozen=True, slots=True)
class Access:
    """``parameters`` lends a layer's weight and bias for a ``with`` block, in the type and on the device of a
    tensor; ``convolve`` is the convolution they are used in."""

    parameters: Callable[[nn.Module, Tensor], AbstractContextManager[Held]] = own_parameters
    convolve: Callable[[Tensor, Tensor, Tensor | None, tuple[int, int, int]], Tensor] = convolve


Fill = Callable[[Tensor, int, int], None]
"""Writes rows first..last of a convolution's input into a destination [B, C, T, rows, W]."""


class Strip(NamedTuple):
    """Rows first..last of an output, [B, C, T, rows, W]."""

    first: int
    last: int
    rows: Tensor


@dataclass(frozen=True, slots=True)
class StripInput:
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
        self, name: str, convolution: nn.Module, source: StripInput, cuts: Sequence[tuple[int, int]]
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
        self, key: tuple[str, int], source: StripInput, above: Tensor, cut: tuple[int, int], *, last: bool
    ) -> Tensor:
        """A strip's buffer: the rows carried on, its own, and below the last strip's a row of zeros."""
        carried, own = above.shape[3], cut[1] - cut[0]
        buffer = source.buffer(carried + own + last)
        buffer[:, :, :, :carried] = above
        if last:
            buffer[:, :, :, -1].zero_()
        self._write(key, source, buffer[:, :, :, carried : carried + own], cut)
        return buffer

    def _write(self, key: tuple[str, int], source: StripInput, buffer: Tensor, cut: tuple[int, int]) -> None:
        """Make a strip's own rows and put the frames before them there: before the first slice, its first."""
        source.fill(buffer[:, :, LOOK_BACK:], *cut)
        before = buffer[:, :, :LOOK_BACK]
        if not self.cache.load(key, before):
            before.copy_(buffer[:, :, LOOK_BACK : LOOK_BACK + 1].expand_as(before))
        self.cache.keep(key, buffer[:, :, -LOOK_BACK:])


def copied(tensor: Tensor) -> StripInput:
    """A tensor as it is."""

    def fill(destination: Tensor, first: int, last: int) -> None:
        destination.copy_(tensor[:, :, :, first:last])

    return StripInput(fill, tensor.shape, tensor)
