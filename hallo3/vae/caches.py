"""The frames that causal convolutions look back at, from one slice of latents to the next."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..residency import Locking

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
        self._locking = Locking()

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
            locking = self._locking if frames.is_cuda else Locking(wanted=False)
            self._kept[key] = locking.empty(frames.shape, frames.dtype)
        kept = self._kept[key]
        kept.copy_(frames.contiguous(), non_blocking=frames.is_cuda and kept.is_pinned())


def cache_in(place: str) -> CausalCache:
    """An empty cache in a place of :data:`hallo3.vae.plan.CACHES`."""
    return HostCache() if place == "host" else DeviceCache()
