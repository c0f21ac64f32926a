"""A network larger than the device: its weights come when they are needed, the next ones while some compute.

Layers that come together are an item: a block, what the timesteps modulate in it, or the audio projection.
At most two items are on the device. Which one is needed is seen from the outside, when one of its layers is
about to run; the network itself knows nothing, and computes exactly what it would with all in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from .residency import HOME

M = TypeVar("M", bound=nn.Module)
Item = tuple[str, ...]
"""Layers that come and go together, by their names in the network."""
Shelf = Callable[[Item], Mapping[str, Tensor]]
"""Where items are kept: an item -> its layers' tensors at home, by their names in the network."""


class Stored(NamedTuple, Generic[M]):
    """A network whose items have no weights yet, and where these are. Items of a row follow one another."""

    network: M
    rows: Sequence[Sequence[Item]]
    shelf: Shelf


class _Ready(NamedTuple):
    """An item's tensors on the device, and what says that they have arrived."""

    tensors: Mapping[str, Tensor]
    arrived: Any


class Streamed(Generic[M]):
    """Hands out a network whose items follow the computation. Loaded on enter, and kept unless not to be."""

    def __init__(self, load: Callable[[], Stored[M]], device: torch.device, *, keep: bool = True) -> None:
        self._load, self._device, self._keep = load, device, keep
        self._kept: Stored[M] | None = None
        self._stream: ItemStream | None = None

    def __enter__(self) -> M:
        if self._kept is None:
            self._kept = self._load()
        self._stream = ItemStream(self._kept, self._device)
        _move(self._kept, self._device)
        return self._kept.network

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._kept is not None:
            _move(self._kept, HOME)
        if not self._keep:
            self._kept = None


class ItemStream:
    """Puts an item's tensors in place before one of its layers runs, and fetches the next one's meanwhile."""

    def __init__(self, stored: Stored[Any], device: torch.device) -> None:
        self._network, self._shelf, self._device = stored.network, stored.shelf, device
        self._next = {item: row[(n + 1) % len(row)] for row in stored.rows for n, item in enumerate(row)}
        self._reader = ThreadPoolExecutor(1, "hallo3-weights")
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._current: Item = ()
        self._coming: dict[Item, Future[_Ready]] = {}
        self._hooks = [
            stored.network.get_submodule(layer).register_forward_pre_hook(self._hook(item))
            for item in self._next
            for layer in item
        ]

    def close(self) -> None:
        """Take everything off the device again."""
        for hook in self._hooks:
            hook.remove()
        self._reader.shutdown(cancel_futures=True)
        self._leave()
        self._coming.clear()

    def _hook(self, item: Item) -> Callable[[nn.Module, Any], None]:
        def before(layer: nn.Module, inputs: Any) -> None:
            del layer, inputs
            if item != self._current:
                self._enter(item)

        return before

    def _enter(self, item: Item) -> None:
        self._leave()
        coming = self._coming.get(item) or self._reader.submit(self._fetch, item)
        self._coming.clear()
        ready = coming.result()
        if self._copies is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(ready.arrived)
            for tensor in ready.tensors.values():
                tensor.record_stream(here)
        put(self._network, ready.tensors)
        self._current = item
        following = self._next[item]
        if following != item:
            self._coming[following] = self._reader.submit(self._fetch, following)

    def _leave(self) -> None:
        """Take the current item's weights out; what still computes with them keeps them alive."""
        _empty(self._network, self._current)
        self._current = ()

    @torch.inference_mode()
    def _fetch(self, item: Item) -> _Ready:
        """In the reader's thread: an item's tensors, on their way to the device."""
        kept = self._shelf(item)
        if self._copies is None:
            return _Ready({name: tensor.to(self._device) for name, tensor in kept.items()}, None)
        with torch.cuda.stream(self._copies):
            sent = {name: t.pin_memory().to(self._device, non_blocking=True) for name, t in kept.items()}
            return _Ready(sent, self._copies.record_event())


def in_memory(network: M, rows: Sequence[Sequence[Item]]) -> Stored[M]:
    """A network's own weights, taken out of it and kept at home."""
    kept: dict[Item, Mapping[str, Tensor]] = {}
    for item in (item for row in rows for item in row):
        kept[item] = dict(_tensors(network, item))
        _empty(network, item)
    return Stored(network, rows, kept.__getitem__)


def leaves(network: nn.Module, below: str) -> Iterator[str]:
    """The layers at or below a name that have no layers of their own."""
    for name, module in _modules(network.get_submodule(below)):
        if not any(True for _ in module.children()):
            yield f"{below}.{name}" if name else below


def put(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give some of a network's parameters and buffers these tensors, by their names in it."""
    for path, tensor in tensors.items():
        where, _, name = path.rpartition(".")
        module = network.get_submodule(where)
        parameter = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from cast("Iterator[tuple[str, nn.Module]]", network.named_modules())


def _tensors(network: nn.Module, item: Item) -> Iterator[tuple[str, Tensor]]:
    for layer in item:
        module = network.get_submodule(layer)
        yield from ((f"{layer}.{name}", parameter.data) for name, parameter in module.named_parameters())
        yield from ((f"{layer}.{name}", buffer) for name, buffer in module.named_buffers())


def _empty(network: nn.Module, item: Item) -> None:
    put(network, {name: tensor.new_empty(0) for name, tensor in _tensors(network, item)})


def _move(stored: Stored[Any], device: torch.device) -> None:
    """Send what belongs to no item."""
    network = stored.network
    items = {layer for row in stored.rows for item in row for layer in item}
    for name, module in _modules(network):
        if name not in items:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            put(module, {key: tensor.to(device) for key, tensor in own if tensor.device != device})
