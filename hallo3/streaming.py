"""A network larger than the device: its blocks come when they are needed, the next one while one computes.

At most two blocks are on the device. Which block is needed is seen from the outside, when one of its
layers is about to run; the network itself knows nothing, and computes exactly what it would with all of
its weights in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .residency import HOME

M = TypeVar("M", bound=nn.Module)
Shelf = Callable[[int], Mapping[str, Tensor]]
"""Where blocks are kept: a block's index -> its tensors at home, by name."""


class Stored(NamedTuple, Generic[M]):
    """A network whose blocks have no weights yet, its blocks, and where their weights are."""

    network: M
    blocks: Sequence[nn.Module]
    shelf: Shelf


class _Ready(NamedTuple):
    """A block's tensors on the device, and what says that they have arrived."""

    tensors: Mapping[str, Tensor]
    arrived: Any


class Streamed(Generic[M]):
    """Hands out a network whose blocks follow the computation. Loaded on enter, and kept unless not to be."""

    def __init__(self, load: Callable[[], Stored[M]], device: torch.device, *, keep: bool = True) -> None:
        self._load, self._device, self._keep = load, device, keep
        self._kept: Stored[M] | None = None
        self._stream: BlockStream | None = None

    def __enter__(self) -> M:
        if self._kept is None:
            self._kept = self._load()
        network, blocks, shelf = self._kept
        self._stream = BlockStream(blocks, shelf, self._device)
        _move(_outside(network, blocks), self._device)
        return network

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._kept is not None:
            _move(_outside(self._kept.network, self._kept.blocks), HOME)
        if not self._keep:
            self._kept = None


class BlockStream:
    """Puts a block's tensors in place before one of its layers runs, and fetches the next's meanwhile."""

    def __init__(self, blocks: Sequence[nn.Module], shelf: Shelf, device: torch.device) -> None:
        self._blocks, self._shelf, self._device = blocks, shelf, device
        self._reader = ThreadPoolExecutor(1, "hallo3-blocks")
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._current = -1
        self._coming: dict[int, Future[_Ready]] = {}
        self._hooks = [
            layer.register_forward_pre_hook(self._hook(index))
            for index, block in enumerate(blocks)
            for layer in block.modules()
            if not any(True for _ in layer.children())
        ]

    def close(self) -> None:
        """Take everything off the device again."""
        for hook in self._hooks:
            hook.remove()
        self._reader.shutdown(cancel_futures=True)
        self._leave()
        self._coming.clear()

    def _hook(self, index: int) -> Callable[[nn.Module, Any], None]:
        def before(layer: nn.Module, inputs: Any) -> None:
            del layer, inputs
            if index != self._current:
                self._enter(index)

        return before

    def _enter(self, index: int) -> None:
        self._leave()
        self._coming = {index: self._coming.get(index) or self._reader.submit(self._fetch, index)}
        ready = self._coming.pop(index).result()
        if self._copies is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(ready.arrived)
            for tensor in ready.tensors.values():
                tensor.record_stream(here)
        _place(self._blocks[index], ready.tensors)
        self._current = index
        following = (index + 1) % len(self._blocks)
        self._coming[following] = self._reader.submit(self._fetch, following)

    def _leave(self) -> None:
        """Take the current block's weights out of it; what still computes with them keeps them alive."""
        if self._current >= 0:
            block = self._blocks[self._current]
            _place(block, {name: tensor.new_empty(0) for name, tensor in _tensors(block)})
            self._current = -1

    @torch.inference_mode()
    def _fetch(self, index: int) -> _Ready:
        """In the reader's thread: a block's tensors, on their way to the device."""
        kept = self._shelf(index)
        if self._copies is None:
            return _Ready({name: tensor.to(self._device) for name, tensor in kept.items()}, None)
        with torch.cuda.stream(self._copies):
            sent = {name: t.pin_memory().to(self._device, non_blocking=True) for name, t in kept.items()}
            return _Ready(sent, self._copies.record_event())


def shelf_of(blocks: Sequence[nn.Module]) -> Shelf:
    """The blocks' own weights, taken out of them and kept at home."""
    kept = [dict(_tensors(block)) for block in blocks]
    for block in blocks:
        _place(block, {name: tensor.new_empty(0) for name, tensor in _tensors(block)})
    return kept.__getitem__


def put(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give some of a network's parameters and buffers these tensors, by their full names."""
    _place(network, tensors)


def _outside(network: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The modules of a network that are in none of its blocks."""
    inside = {id(module) for block in blocks for module in block.modules()}
    return (module for module in network.modules() if id(module) not in inside)


def _move(modules: Iterator[nn.Module], device: torch.device) -> None:
    for module in modules:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if tensor.device != device:
                _place(module, {name: tensor.to(device)})


def _tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter.data) for name, parameter in block.named_parameters())
    yield from block.named_buffers()


def _place(root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for path, tensor in tensors.items():
        where, _, name = path.rpartition(".")
        module = root.get_submodule(where)
        parameter = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)
