"""Causal 3 x 3 x 3 convolutions of whole clips, and in strips of rows, whose input is written directly to
their buffer.

diffusers' convolutions need the padded input and the output of a whole slice at once. A strip's buffer
has the two frames before the slice and one row of halo above and below. Its last two rows are copied to the
next strip's, so that each row is computed once, and a strip's output lies above the rows still to be read: it
may replace the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..geometry import TIME_FACTOR, LatentShape
from ..residency import PinnedAllocator

CACHES = ("device", "host")
LOOK_BACK = 2
"""Frames before a slice that a causal convolution reads."""
MAX_CONV_ELEMENTS = 2**30
"""Elements of a convolution's input; above, index arithmetic of convolutions on a GPU overflows."""
MIN_ONEDNN_ELEMENTS = 10_000
"""Elements of the input above which oneDNN's preparation pays."""


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How a decode saves memory; frames differ by rounding only. ``strips``: pieces that the rows are
    convolved in; 1 is the whole height. ``caches``: where the last two frames before each convolution are
    between slices, on the "device" or in the "host"'s RAM."""

    strips: int = 1
    caches: str = "device"

    def __post_init__(self) -> None:
        if self.strips < 1 or self.caches not in CACHES:
            raise ValueError(f"{self.strips} strips with caches on {self.caches!r}: at least 1, on {CACHES}")


def cuts(latent_rows: int, strips: int, scale: int) -> list[tuple[int, int]]:
    """First and last + 1 row of each strip of a picture ``scale`` times its latents' size. Strips are whole
    latent rows, as equal as possible, and at most one per latent row."""
    count = min(strips, latent_rows)
    return list(pairwise(scale * (latent_rows * index // count) for index in range(count + 1)))


def min_strips(channels: int, slice_shape: LatentShape) -> int:
    """Strips that keep the largest convolution's input below :data:`MAX_CONV_ELEMENTS`; ``channels`` enter
    the last block, ``slice_shape`` is the longest slice's."""
    video_frames, height, width = slice_shape.video
    frames = video_frames if slice_shape.frames % 2 else TIME_FACTOR * slice_shape.frames
    return -(-channels * (LOOK_BACK + frames) * height * width // MAX_CONV_ELEMENTS)


Key = tuple[str, int]
"""A convolution's name, and a strip of its rows."""


def memory_format(like: Tensor) -> torch.memory_format:
    """In which a convolution reads and writes without converting: 16-bit ones on a GPU and a CPU. On meta
    nothing is converted, and its output would count twice."""
    last = like.element_size() == 2 and not like.is_meta
    return torch.channels_last_3d if last else torch.contiguous_format


def carve(memory: Tensor, shape: Sequence[int], order: torch.memory_format) -> Tensor:
    """The start of one-dimensional ``memory`` as a tensor [B, C, T, H, W]."""
    batch, channels, *rest = shape
    if order == torch.channels_last_3d:
        return memory[: prod(shape)].view(batch, *rest, channels).permute(0, 4, 1, 2, 3)
    return memory[: prod(shape)].view(batch, channels, *rest)


class CausalCache:
    """The last two frames before each convolution, for one decode, written over slice after slice. They are
    views of one buffer, which is made first: made one by one, between what is freed soon, they would leave a
    GPU's memory in pieces. On the "host" the buffer is pinned memory on CUDA, where copies are queued behind
    the computation. Both ends of a copy are contiguous, since others are copied twice."""

    def __init__(self, place: str = "device") -> None:
        self._in_host = place == "host"
        self._frames: dict[Key, Tensor] = {}
        self._free = torch.empty(0)

    def reserve(self, count: int, like: Tensor) -> None:
        """Make room for ``count`` numbers of the type of ``like``, on its device or in the host's memory."""
        if self._in_host:
            self._free = PinnedAllocator(wanted=like.is_cuda).empty((count,), like.dtype)
        else:
            self._free = like.new_empty(count)

    def load(self, key: Key, destination: Tensor) -> bool:
        """Copy the stored frames to ``destination`` [B, C, 2, rows, W]; False if there are none."""
        frames = self._frames.get(key)
        if frames is None:
            return False
        if self._in_host:
            frames = frames.to(destination.device, non_blocking=destination.is_cuda and frames.is_pinned())
        destination.copy_(frames)
        return True

    def store(self, key: Key, frames: Tensor) -> None:
        """Replace the stored frames by ``frames`` [B, C, 2, rows, W]."""
        order = memory_format(frames)
        if key not in self._frames:
            self._frames[key] = carve(self._free, frames.shape, order)
            self._free = self._free[frames.numel() :]
        stored = self._frames[key]
        if self._in_host:
            frames = frames.contiguous(memory_format=order)
        stored.copy_(frames, non_blocking=self._in_host and frames.is_cuda and stored.is_pinned())


WeightAndBias = tuple[Tensor, Tensor | None]


def own_parameters(layer: nn.Module, like: Tensor) -> AbstractContextManager[WeightAndBias]:
    del like
    return nullcontext((cast(Any, layer).weight, cast(Any, layer).bias))


def convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """torch's 3D convolution at stride 1: in oneDNN where that is faster, which torch does not use for small
    batches, and in cuDNN where torch has turned it off."""
    ones = (1, 1, 1)
    if _suits_onednn(signal, weight):
        return _onednn_convolve(signal, weight, bias, padding, ones, ones, 1)
    if signal.is_cuda and signal.dtype in (torch.float16, torch.bfloat16) and avoids_cudnn():
        out = torch.cudnn_convolution(
            signal, weight, padding, ones, ones, 1, benchmark=False, deterministic=False, allow_tf32=True
        )
        return out if bias is None else out.add_(bias[:, None, None, None])
    return torch.conv3d(signal, weight, bias, ones, padding, ones, 1)


def avoids_cudnn() -> bool:
    """Whether torch convolves 16-bit video without cuDNN, which takes 7 GB where 2.5 are enough: 2.9 does,
    beside cuDNN 9.8 to 9.14 (pytorch issue 166643)."""
    affected = str(torch.__version__).startswith("2.9.")
    return affected and 90800 <= (torch.backends.cudnn.version() or 0) < 91500


_onednn_convolve = cast(Callable[..., Tensor], getattr(torch, "mkldnn_convolution", None))


def _suits_onednn(signal: Tensor, weight: Tensor) -> bool:
    return (
        signal.numel() >= MIN_ONEDNN_ELEMENTS
        and weight[0, 0].numel() > 1
        and signal.device.type == "cpu"
        and signal.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    )


class OneDNNConvolutions(TorchFunctionMode):
    """While entered, ``conv3d`` of float32 CPU tensors without gradients runs in oneDNN: for networks of
    other libraries."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv3d and not kwargs and len(args) == 7 and _suits_onednn(args[0], args[1]):
            signal, weight, bias, stride, padding, dilation, groups = args
            return _onednn_convolve(signal, weight, bias, padding, stride, dilation, groups)
        return func(*args, **(kwargs or {}))


def convolve_frames(convolution: nn.Module, x: Tensor) -> Tensor:
    """The causal convolution of a clip [B, C, T, H, W], whose first frame is repeated before it.
    ``x`` is not held while it runs."""
    layer = cast(Any, convolution).conv
    x = torch.cat((x[:, :, :1], x[:, :, :1], x), dim=2)
    return convolve(x, layer.weight, layer.bias, (0, 1, 1))


@dataclass(frozen=True, slots=True)
class LayerAccess:
    """``parameters`` gives a layer's weight and bias for a ``with`` block, in a tensor's type and on its
    device; ``convolve`` convolves with them."""

    parameters: Callable[[nn.Module, Tensor], AbstractContextManager[WeightAndBias]] = own_parameters
    convolve: Callable[[Tensor, Tensor, Tensor | None, tuple[int, int, int]], Tensor] = convolve


class Strip(NamedTuple):
    """Rows first..last of an output, [B, C, T, rows, W]."""

    first: int
    last: int
    rows: Tensor


@dataclass(frozen=True, slots=True)
class StripInput:
    """Input [B, C, T, H, W] of a strip convolution: ``fill`` writes rows first..last to a destination;
    ``like`` gives shape, type and device."""

    fill: Callable[[Tensor, int, int], object]
    like: Tensor

    def buffer_shape(self, rows: int) -> tuple[int, int, int, int, int]:
        """Rows of the slice and of the frames before it."""
        batch, channels, frames, _, width = self.like.shape
        return batch, channels, LOOK_BACK + frames, rows, width


@dataclass(frozen=True, slots=True)
class StripConvolver:
    """``memory`` has the buffers of strips; without it each is made when it is used."""

    cache: CausalCache
    access: LayerAccess
    memory: Tensor | None = None

    def buffer(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Until the next one is asked for."""
        order = memory_format(like)
        if self.memory is not None:
            return carve(self.memory, shape, order)
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=order)

    def strips(
        self, name: str, convolution: nn.Module, source: StripInput, cuts: Sequence[tuple[int, int]]
    ) -> Iterator[Strip]:
        """The output of a causal convolution, top to bottom. ``cuts`` are rows of input; all strips but the
        last output one row less at the bottom. The layer is borrowed until the last strip: borrow no other
        meanwhile."""
        layer = cast(Any, convolution).conv
        with self.access.parameters(layer, source.like) as (weight, bias):
            if len(cuts) == 1:
                buffer = self.buffer(source.like, source.buffer_shape(source.like.shape[3]))
                self._write((name, 0), source, buffer, cuts[0])
                out = self.access.convolve(buffer, weight, bias, (0, 1, 1))
                del buffer
                yield Strip(*cuts[0], out)
                return
            above = source.like.new_zeros(source.buffer_shape(1))
            done = 0
            for index, cut in enumerate(cuts):
                is_last = index == len(cuts) - 1
                halo, own = above.shape[3], cut[1] - cut[0]
                buffer = self.buffer(source.like, source.buffer_shape(halo + own + is_last))
                buffer[:, :, :, :halo] = above
                if is_last:
                    buffer[:, :, :, -1].zero_()
                self._write((name, index), source, buffer[:, :, :, halo : halo + own], cut)
                above = buffer[:, :, :, -2:].clone()
                count = buffer.shape[3] - 2
                if count:
                    out = self.access.convolve(buffer, weight, bias, (0, 0, 1))
                    del buffer
                    yield Strip(done, done + count, out)
                    del out
                done += count

    def _write(self, key: Key, source: StripInput, buffer: Tensor, cut: tuple[int, int]) -> None:
        """Write a strip's rows, and the frames before them: before the first slice, its first frame."""
        source.fill(buffer[:, :, LOOK_BACK:], *cut)
        before = buffer[:, :, :LOOK_BACK]
        if not self.cache.load(key, before):
            before.copy_(buffer[:, :, LOOK_BACK : LOOK_BACK + 1].expand_as(before))
        self.cache.store(key, buffer[:, :, -LOOK_BACK:])
