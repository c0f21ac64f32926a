"""A part of a checkpoint -> a safetensors file of ours, streamed: a few blocks in memory, whatever the size.

What to write is decided here (:class:`Recipe`); writing it so that a stop loses little is ``journal``'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from ..tensorfile.header import header_bytes
from .eight_bits import FP8, fp8_scale, to_fp8
from .examine import Watch, unwatched
from .part import METADATA_KEY, StoredPart
from .precision import Precision
from .scales import narrowed

BLOCK = 4 << 20
"""Elements in memory at a time."""
FORMAT = json.dumps({"format": "float8_e4m3fn"}).encode()
"""What ComfyUI reads beside a layer to know how its weight is quantised."""


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor to be written: ``blocks`` makes its elements, flat, in order."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Recipe:
    """A whole file to be written: its header, and then its items one after the other."""

    header: bytes
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(item.nbytes for item in self.items)

    def blocks(self, start: int) -> Iterator[bytes]:
        """The file's bytes from ``start``, which is the beginning or an item's."""
        position = 0
        if start == 0:
            yield self.header
        position = len(self.header)
        for item in self.items:
            if position >= start:
                for block in item.blocks():
                    yield _bytes(block)
            position += item.nbytes

    @cached_property
    def borders(self) -> frozenset[int]:
        """Where items begin and end: from there a stopped file can be gone on with."""
        sizes = (item.nbytes for item in self.items)
        return frozenset(accumulate(sizes, initial=len(self.header)))


def recipe(
    found: StoredPart, precision: Precision, says: Mapping[str, Any], watch: Watch = unwatched
) -> Recipe:
    """How a part is written in a precision; ``says`` becomes the file's metadata.

    For fp8 every matrix is read once here, to find its scale. Raises ``CheckpointError``.
    """
    items: list[Item] = []
    scratch = torch.empty(BLOCK if precision.held_as else 0)
    for name in found.made:
        if precision.held(name):
            items += _eight_bit(found, name, scratch, watch)
        else:
            items.append(_plain(found, name, precision.compute))
    items.sort(key=lambda item: -item.dtype.itemsize)  # so that each begins where its type may
    names = ((item.name, item.dtype, item.shape) for item in items)
    return Recipe(header_bytes(names, {METADATA_KEY: json.dumps(says)}), tuple(items))


def _plain(found: StoredPart, name: str, compute: torch.dtype) -> Item:
    stored = found.dtype(name)
    dtype = compute if stored.is_floating_point or found.scaled(name) else stored

    def blocks() -> Iterator[Tensor]:
        if found.scaled(name):
            yield from found.tensor(name, dtype).flatten().split(BLOCK)
            return
        for piece in found.pieces(name, BLOCK):
            yield narrowed(piece, dtype, name)

    return Item(name, dtype, found.made[name].shape, blocks)


def _eight_bit(found: StoredPart, name: str, scratch: Tensor, watch: Watch) -> list[Item]:
    """The matrix, its scale, and the note by which ComfyUI knows both. ``scratch`` holds a block in float32:
    made anew each time, blocks of many sizes leave holes in memory that add up."""
    layer = name.removesuffix(".weight")
    note = torch.tensor(list(FORMAT), dtype=torch.uint8)
    scale = found.scale(name)
    kept = found.dtype(name) == FP8 and (scale is None or scale.numel() == 1)
    if kept:
        scale = torch.ones(()) if scale is None else scale.reshape(())
    else:
        largest = torch.zeros(())
        for piece in _values(found, name):
            least, most = torch.aminmax(scratch[: len(piece)].copy_(piece))  # abs() would make a copy
            largest = torch.maximum(largest, torch.maximum(-least, most))
            watch(piece.nbytes)
        scale = fp8_scale(largest)

    def blocks() -> Iterator[Tensor]:
        if kept:
            yield from found.pieces(name, BLOCK)
            return
        for piece in _values(found, name):
            yield to_fp8(scratch[: len(piece)].copy_(piece), scale)

    return [
        Item(name, FP8, found.made[name].shape, blocks),
        Item(f"{layer}.weight_scale", torch.float32, (), lambda: iter([scale.reshape(1)])),
        Item(f"{layer}.comfy_quant", torch.uint8, (len(FORMAT),), lambda: iter([note])),
    ]


def _values(found: StoredPart, name: str) -> Iterator[Tensor]:
    if found.scaled(name):
        return iter(cast("tuple[Tensor, ...]", found.tensor(name, torch.float32).flatten().split(BLOCK)))
    return found.pieces(name, BLOCK)


def _bytes(block: Tensor) -> bytes:
    return block.contiguous().view(torch.uint8).numpy().tobytes()
