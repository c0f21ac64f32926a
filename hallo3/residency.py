"""Residencies: context managers that give a network on its device, and decide where its weights are in
between. ``contextlib.nullcontext(network)`` is the simplest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .messages import logger

T = TypeVar("T")
U = TypeVar("U")
CPU = torch.device("cpu")


def release_cached_memory() -> None:
    """Give GPU memory that PyTorch keeps for later back to the device, when a network is left: the next stage
    needs blocks of other sizes, and a stream uses no blocks of another one. Does nothing without CUDA."""
    torch.cuda.empty_cache()


class OnDemandModule(Generic[T]):
    """Loaded on enter, released on exit: for what a run needs once (T5, wav2vec2, the reference network)."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._network: T | None = None

    def __enter__(self) -> T:
        self._network = self._load()
        return self._network

    def __exit__(self, *_: object) -> None:
        self._network = None
        release_cached_memory()


class ChosenModule(Generic[T]):
    """Chooses a residency each time it is entered."""

    def __init__(self, choose: Callable[[], AbstractContextManager[T]]) -> None:
        self._choose = choose
        self._chosen: AbstractContextManager[T] | None = None

    def __enter__(self) -> T:
        self._chosen = self._choose()
        return self._chosen.__enter__()

    def __exit__(self, *raised: Any) -> None:
        chosen, self._chosen = self._chosen, None
        if chosen is not None:
            chosen.__exit__(*raised)


class DerivedModule(Generic[T, U]):
    """Derives an object from another residency's network, each time it is entered."""

    def __init__(self, inner: AbstractContextManager[T], make: Callable[[T], U]) -> None:
        self._inner, self._make = inner, make

    def __enter__(self) -> U:
        network = self._inner.__enter__()
        try:
            return self._make(network)
        except BaseException as error:
            self._inner.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, *raised: Any) -> None:
        self._inner.__exit__(*raised)


class PinnedAllocator:
    """Pinned memory, which a GPU reads asynchronously. If the system refuses it, warns once and allocates
    ordinary memory from then on. Raises ``torch.OutOfMemoryError`` if a device's own memory runs out."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        pinned = self._try(lambda: torch.empty(shape, dtype=dtype, pin_memory=True))
        return torch.empty(shape, dtype=dtype) if pinned is None else pinned

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy a CPU tensor to pinned memory; returns the tensor itself if that is refused."""
        pinned = self._try(tensor.pin_memory)
        return tensor if pinned is None else pinned

    def _try(self, pin: Callable[[], Tensor]) -> Tensor | None:
        if not self._wanted:
            return None
        try:
            return pin()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._wanted = False
        logger.warning("the system pins no more memory; transfers to the GPU from other memory are slower.")
        return None
