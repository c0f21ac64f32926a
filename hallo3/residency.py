"""Where a network stands while it is used: a context manager that hands it out.

``contextlib.nullcontext(network)`` is the simplest residency; tests use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from .messages import logger

T = TypeVar("T")
U = TypeVar("U")
CPU = torch.device("cpu")


class Movable(Protocol):
    """Anything that can be sent to a device, as every torch module can."""

    def to(self, device: torch.device) -> Self: ...


M = TypeVar("M", bound=Movable)


class OnDemandModule(Generic[T]):
    """Loaded on enter, let go on exit: for what a run needs once (T5, wav2vec2, the reference network)."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._guest: T | None = None

    def __enter__(self) -> T:
        self._guest = self._load()
        return self._guest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guest = None


class OffloadedModule(Generic[M]):
    """Loaded on first enter and kept in memory, on the device only while used (transformer, VAE)."""

    def __init__(self, load: Callable[[], M], device: torch.device) -> None:
        self._load, self._device = load, device
        self._kept: M | None = None

    def __enter__(self) -> M:
        if self._kept is None:
            self._kept = self._load()
        if self._device != CPU:
            self._kept = self._kept.to(self._device)
        return self._kept

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept is not None and self._device != CPU:
            self._kept = self._kept.to(CPU)


class DerivedModule(Generic[T, U]):
    """What is made of a network that stands behind another residency, each time it is entered."""

    def __init__(self, inner: AbstractContextManager[T], make: Callable[[T], U]) -> None:
        self._inner, self._make = inner, make

    def __enter__(self) -> U:
        network = self._inner.__enter__()
        try:
            return self._make(network)
        except BaseException as error:
            self._inner.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class PinnedAllocator:
    """Memory of the host that is locked (pinned), from which a GPU fetches by itself. Where the system
    refuses it, which a warning tells, ordinary memory, then and ever after; a GPU fetches from that more
    slowly.

    Raises ``torch.OutOfMemoryError`` where a device's own memory has run out.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory for numbers of this shape and type."""
        locked = self._tried(lambda: torch.empty(shape, dtype=dtype, pin_memory=True))
        return torch.empty(shape, dtype=dtype) if locked is None else locked

    def copied(self, tensor: Tensor) -> Tensor:
        """A tensor of the host's in locked memory; itself where that is refused."""
        locked = self._tried(tensor.pin_memory)
        return tensor if locked is None else locked

    def _tried(self, lock: Callable[[], Tensor]) -> Tensor | None:
        if not self._wanted:
            return None
        try:
            return lock()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._wanted = False
        logger.warning(
            "The system locks no more memory; what is sent from memory that is not locked comes more slowly."
        )
        return None
