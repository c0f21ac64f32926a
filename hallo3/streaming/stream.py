"""A network larger than the device: its weights come when they are needed, the next ones while some compute.

Layers that come together are an item: a block, what the timesteps modulate in it, or the audio projection.
Items that follow one another are a row; of each row at most two are on the device, the one that computes and
the one that comes. Some of the first row may stay, as many as there is room for. Which item is needed is seen
from the outside, when one of its layers, or a module around them, is about to run; the network itself knows
nothing, and computes exactly what it would with all in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..residency import HOME, Locking
from .items import Item, others_of, over_items, put, tensors_of
from .packing import Packed, sent

M = TypeVar("M", bound=nn.Module)
Shelf = Callable[[Item], Mapping[str, Tensor] | Packed]
"""Where items are kept: an item -> its layers' tensors at home, by their names in the network."""


class Stored(NamedTuple, Generic[M]):
    """A network whose items have no weights yet, and where these are. Items of a row follow one another, the
    first row's again and again; a row of one item has the device for itself. ``staying`` items of the first
    row are not taken off it before the network is left."""

    network: M
    rows: Sequence[Sequence[Item]]
    shelf: Shelf
    staying: frozenset[Item] = frozenset()


class _Ready(NamedTuple):
    """An item's tensors on the device, and what says that they have arrived."""

    tensors: Mapping[str, Tensor]
    arrived: Any


def reader_thread() -> Executor:
    """Who fetches items, one at a time."""
    return ThreadPoolExecutor(1, "hallo3-weights")


class Streamed(Generic[M]):
    """Hands out a network whose items follow the computation. Loaded on enter, and kept unless not to be."""

    def __init__(
        self,
        load: Callable[[], Stored[M]],
        device: torch.device,
        *,
        keep: bool = True,
        reader: Callable[[], Executor] = reader_thread,
    ) -> None:
        self._load, self._device, self._keep, self._reader = load, device, keep, reader
        self._kept: Stored[M] | None = None
        self._stream: ItemStream | None = None
        self._home: dict[str, Tensor] = {}

    def __enter__(self) -> M:
        if self._kept is None:
            self._kept = self._load()
        try:
            self._stream = ItemStream(self._kept, self._device, self._reader())
            self._home = dict(others_of(self._kept.network, self._kept.rows))
            put(self._kept.network, {name: tensor.to(self._device) for name, tensor in self._home.items()})
        except BaseException:
            self._leave()
            raise
        return self._kept.network

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._kept is not None:
            put(self._kept.network, self._home)
        self._home = {}
        if not self._keep:
            self._kept = None


class ItemStream:
    """Puts an item's tensors in place before one of its layers runs, and fetches the next one's meanwhile."""

    def __init__(self, stored: Stored[Any], device: torch.device, reader: Executor) -> None:
        self._network, self._shelf, self._device = stored.network, stored.shelf, device
        self._rows, self._staying, self._reader = stored.rows, stored.staying, reader
        self._alone = [number for number, row in enumerate(stored.rows) if len(row) == 1]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._locking = Locking()
        self._entered: Item = ()
        self._here: dict[int, Item] = {}
        self._stayed: set[Item] = set()
        self._coming: dict[int, tuple[Item, Future[_Ready]]] = {}
        self._left: Any = None
        for row in stored.rows:
            for item in row:
                _empty(self._network, item, device)
        self._hooks = [
            self._network.get_submodule(name).register_forward_pre_hook(self._hook(row, place))
            for name, (row, place) in over_items(stored.rows).items()
        ]

    def close(self) -> None:
        """Take everything off the device again."""
        for hook in self._hooks:
            hook.remove()
        for row in list(self._coming):
            self._call_off(row)
        self._reader.shutdown(cancel_futures=True)
        self._clear()

    def _hook(self, row: int, place: int) -> Callable[[nn.Module, Any], None]:
        item = self._rows[row][place]

        def before(layer: nn.Module, inputs: Any) -> None:
            del layer, inputs
            if item != self._entered:
                self._entered = ()  # an item that does not come has taken the one before away
                if self._here.get(row) != item:
                    self._enter(row, place, item)
                self._entered = item

        return before

    def _enter(self, row: int, place: int, item: Item) -> None:
        if row in self._alone:
            self._clear()
        else:
            self._take_out(list(self._here) if row == 0 else [row, *self._alone])
        if item not in self._stayed:
            self._put_in(self._arriving(row, item))
            if item in self._staying:
                self._stayed.add(item)
        self._here[row] = item
        self._expect(row, place)

    def _arriving(self, row: int, item: Item) -> Future[_Ready]:
        if row in self._coming and self._coming[row][0] == item:
            return self._coming.pop(row)[1]
        self._call_off(row)
        return self._reader.submit(self._fetch, item, self._left)

    def _put_in(self, arriving: Future[_Ready]) -> None:
        ready = arriving.result()
        if self._copies is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(ready.arrived)
            for tensor in ready.tensors.values():
                tensor.record_stream(here)
        put(self._network, ready.tensors)

    def _expect(self, row: int, place: int) -> None:
        """Have the row's next item fetched, unless it comes already; only the first row begins again."""
        items = self._rows[row]
        following = [*items[place + 1 :], *(() if row else items[:place])]
        wanted = next((item for item in following if item not in self._stayed), None)
        if row in self._coming and self._coming[row][0] == wanted:
            return
        self._call_off(row)
        if wanted is not None:
            self._coming[row] = wanted, self._reader.submit(self._fetch, wanted, self._left)

    def _call_off(self, row: int) -> None:
        if row in self._coming:
            self._coming.pop(row)[1].cancel()

    def _take_out(self, rows: Iterable[int]) -> None:
        """Items leave, unless they are to stay; what still computes with their weights keeps them alive."""
        found = {self._here.pop(row) for row in rows if row in self._here} - self._stayed
        for item in found:
            _empty(self._network, item, self._device)
        if found and self._copies is not None:
            self._left = torch.cuda.current_stream(self._device).record_event()

    def _clear(self) -> None:
        """Everything leaves, and nothing comes."""
        for row in list(self._coming):
            self._call_off(row)
        self._here |= {-1 - number: item for number, item in enumerate(self._stayed)}
        self._stayed.clear()
        self._take_out(list(self._here))

    @torch.inference_mode()
    def _fetch(self, item: Item, left: Any) -> _Ready:
        """In the reader's thread: an item's tensors, on their way to the device. Nothing is sent before the
        device is done with what has ``left``, or else a fast host would fill it with items that wait."""
        kept = self._shelf(item)
        if self._copies is None:
            return _Ready(sent(kept, self._device, self._locking), None)
        if left is not None:
            left.synchronize()
        with torch.cuda.stream(self._copies):
            return _Ready(sent(kept, self._device, self._locking), self._copies.record_event())


def in_memory(
    network: M, rows: Sequence[Sequence[Item]], *, staying: Iterable[Item] = (), locked: bool = False
) -> Stored[M]:
    """A network's own weights, taken out of it and kept at home; in ``locked`` memory they are sent
    faster. Who calls keeps none of them: of what is packed already there would be two."""
    kept: dict[Item, Mapping[str, Tensor] | Packed] = {}
    locking = Locking()
    for item in (item for row in rows for item in row):
        own = dict(tensors_of(network, item))
        kept[item] = Packed(own, locking) if locked else own
        _empty(network, item, HOME)
    return Stored(network, rows, kept.__getitem__, frozenset(staying))


def _empty(network: nn.Module, item: Item, device: torch.device) -> None:
    put(
        network, {name: torch.empty(0, dtype=t.dtype, device=device) for name, t in tensors_of(network, item)}
    )
