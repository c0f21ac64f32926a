"""Tensors that travel together, packed into page-locked memory: one stretch of bytes, sent by a few large
copies.

Memory is locked in chunks whose size is a power of two, which is what torch rounds it up to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..residency import Locking

CHUNK = 32 << 20
ALIGNED = 256
"""Bytes at a multiple of which every tensor starts."""


class Place(NamedTuple):
    """Where a tensor lies in its pack."""

    first: int
    bytes: int
    dtype: torch.dtype
    shape: torch.Size


class Packed:
    """Tensors at home, by name, to be sent all at once. ``size`` is their bytes, with what aligns them;
    ``locking`` says where they lie, left out in ordinary memory."""

    def __init__(self, tensors: Mapping[str, Tensor], locking: Locking | None = None) -> None:
        self.places: dict[str, Place] = {}
        self.size = 0
        for name, tensor in tensors.items():
            self.places[name] = Place(self.size, tensor.nbytes, tensor.dtype, tensor.shape)
            self.size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        self._chunks = list(_chunks(self.size, locking or Locking(wanted=False)))
        for name, tensor in tensors.items():
            self._write(self.places[name].first, tensor.contiguous().reshape(-1).view(torch.uint8))

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """Fresh tensors on a device; copies from locked memory are only begun, on the current stream."""
        whole = torch.empty(self.size, dtype=torch.uint8, device=device)
        for number, chunk in enumerate(self._chunks):
            there = whole[number * CHUNK : (number + 1) * CHUNK]
            there.copy_(chunk[: len(there)], non_blocking=True)
        return {
            name: whole[place.first : place.first + place.bytes].view(place.dtype).view(place.shape)
            for name, place in self.places.items()
        }

    def _write(self, first: int, source: Tensor) -> None:
        done = 0
        while done < len(source):
            number, start = divmod(first + done, CHUNK)
            count = min(CHUNK - start, len(source) - done)
            self._chunks[number][start : start + count] = source[done : done + count]
            done += count


def sent(kept: Mapping[str, Tensor] | Packed, device: torch.device, locking: Locking) -> Mapping[str, Tensor]:
    """Tensors on a device; copies to a GPU are only begun, on the current stream, from memory that is
    locked for that if it is not yet."""
    if isinstance(kept, Packed):
        return kept.to(device)
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in kept.items()}
    return {name: locking.copied(tensor).to(device, non_blocking=True) for name, tensor in kept.items()}


def _chunks(size: int, locking: Locking) -> Iterator[Tensor]:
    for first in range(0, size, CHUNK):
        yield locking.empty([min(CHUNK, 1 << (size - first - 1).bit_length())], torch.uint8)
