"""Residencies: context managers that give a network on its device, and decide where its weights are in
between. ``contextlib.nullcontext(network)`` is the simplest one. And what happens if memory runs out: a stage
is tried again with less."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from traceback import clear_frames
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .errors import is_out_of_memory
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


SHARES = 0.9, 0.8
"""Of what a first try was planned for: what a second and a third are planned for."""
_stage: ContextVar[str] = ContextVar("hallo3_stage", default="")


@runtime_checkable
class Shrinkable(Protocol):
    """What can do the same work in less memory."""

    def shrink(self, error: Exception, stage: str) -> bool:
        """After memory ran out in a stage: leave everything, give memory back, and plan to take less. False
        if nothing smaller exists."""
        ...


@contextmanager
def memory_stage(name: str) -> Generator[None]:
    """A stage of a memory plan, which an attempt names if memory runs out in the block."""
    before = _stage.get()
    _stage.set(name)
    yield
    _stage.set(before)  # after an error it stays


class Attempt:
    """A try of a stage; see :func:`attempts`."""

    def __init__(self, renderer: object, stage: str) -> None:
        self._renderer, self._name, self.failed = renderer, stage, False

    def __enter__(self) -> None:
        self._before = _stage.set(self._name)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        try:
            is_short = isinstance(error, Exception) and is_out_of_memory(error)
            if not isinstance(error, Exception) or not is_short or not isinstance(self._renderer, Shrinkable):
                return False
            cause: BaseException | None = error
            while cause is not None:
                clear_frames(cause.__traceback__)  # they hold tensors
                cause = cause.__cause__ or cause.__context__
            self.failed = self._renderer.shrink(error, _stage.get())
            return self.failed
        finally:
            _stage.reset(self._before)


def attempts(renderer: object, stage: str = "") -> Iterator[Attempt]:
    """``for attempt in attempts(renderer): with attempt: ...`` runs a block, a stage, again if memory runs
    out in it, as long as the ``renderer`` can shrink; what functions called there held is freed before."""
    attempt = Attempt(renderer, stage)
    yield attempt
    while attempt.failed:
        attempt = Attempt(renderer, stage)
        yield attempt


def try_again(work: Callable[[], T], renderer: object, stage: str = "") -> T:
    """What ``work`` returns, tried as of :func:`attempts`."""
    results = list[T]()
    for attempt in attempts(renderer, stage):
        with attempt:
            results.append(work())
    return results[0]


def release_memory() -> None:
    """After an error: give back all that nothing uses any more."""
    gc.collect()
    with suppress(RuntimeError):  # of an operation before
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    release_cached_memory()


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device``; asynchronously from pinned memory for a GPU."""
    if device.type == "cuda":
        return PinnedAllocator().copy(tensor).to(device, non_blocking=True)
    return tensor.to(device)
