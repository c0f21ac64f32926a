"""A network larger than the device: its weights come when they are needed, the next ones while some compute.

Layers that come together are an item: a block, what the timesteps modulate in it, or the audio projection.
Items that follow one another are a row; of each row at most two are on the device, the one that computes and
the one that comes. Some of the first row may stay, as many as there is room for. Which item is needed is seen
from the outside, when one of its layers, or a module around them, is about to run; the network itself knows
nothing, and computes exactly what it would with all in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..residency import CPU, PinnedAllocator

WeightGroup = tuple[str, ...]
"""Layers that come and go together, by their names in the network."""


def over_items(rows: Sequence[Sequence[WeightGroup]]) -> dict[str, tuple[int, int]]:
    """Whose running needs which item (its row and its place there): its layers, and the modules in which
    these stand, which may read their weights without calling them. A module over several items is one of the
    first row's, if it is over one of that row."""
    found: dict[str, tuple[int, int]] = {}
    several: set[str] = set()
    for number, row in enumerate(rows):
        for place, layer in ((place, layer) for place, item in enumerate(row) for layer in item):
            names = layer.split(".")
            for name in (".".join(names[:count]) for count in range(1, len(names) + 1)):
                known = found.setdefault(name, (number, place))
                if known != (number, place) and known[0] == number:
                    several.add(name)
    return {name: known for name, known in found.items() if name not in several}


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


def tensors_of(network: nn.Module, item: WeightGroup) -> Iterator[tuple[str, Tensor]]:
    """An item's tensors in a network, by their names in it."""
    for layer in item:
        module = network.get_submodule(layer)
        yield from ((f"{layer}.{name}", parameter.data) for name, parameter in module.named_parameters())
        yield from ((f"{layer}.{name}", buffer) for name, buffer in module.named_buffers())


def others_of(network: nn.Module, rows: Sequence[Sequence[WeightGroup]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that belong to no item, by their names in the network."""
    items = {layer for row in rows for item in row for layer in item}
    for name, module in _modules(network):
        if name not in items:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield from ((f"{name}.{key}" if name else key, tensor.data) for key, tensor in own)


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from cast("Iterator[tuple[str, nn.Module]]", network.named_modules())


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

    def __init__(self, tensors: Mapping[str, Tensor], locking: PinnedAllocator | None = None) -> None:
        self.places: dict[str, Place] = {}
        self.size = 0
        for name, tensor in tensors.items():
            self.places[name] = Place(self.size, tensor.nbytes, tensor.dtype, tensor.shape)
            self.size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        self._chunks = list(_chunks(self.size, locking or PinnedAllocator(wanted=False)))
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


def sent(
    kept: Mapping[str, Tensor] | Packed, device: torch.device, locking: PinnedAllocator
) -> Mapping[str, Tensor]:
    """Tensors on a device; copies to a GPU are only begun, on the current stream, from memory that is
    locked for that if it is not yet."""
    if isinstance(kept, Packed):
        return kept.to(device)
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in kept.items()}
    return {name: locking.copy(tensor).to(device, non_blocking=True) for name, tensor in kept.items()}


def _chunks(size: int, locking: PinnedAllocator) -> Iterator[Tensor]:
    for first in range(0, size, CHUNK):
        yield locking.empty([min(CHUNK, 1 << (size - first - 1).bit_length())], torch.uint8)


M = TypeVar("M", bound=nn.Module)
WeightStore = Callable[[WeightGroup], Mapping[str, Tensor] | Packed]
"""Where items are kept: an item -> its layers' tensors at home, by their names in the network."""


class StreamableModule(NamedTuple, Generic[M]):
    """A network whose items have no weights yet, and where these are. Items of a row follow one another, the
    first row's again and again; a row of one item has the device for itself. ``staying`` items of the first
    row are not taken off it before the network is left."""

    network: M
    rows: Sequence[Sequence[WeightGroup]]
    shelf: WeightStore
    staying: frozenset[WeightGroup] = frozenset()


class _Ready(NamedTuple):
    """An item's tensors on the device, and what says that they have arrived."""

    tensors: Mapping[str, Tensor]
    arrived: Any


def reader_thread() -> Executor:
    """Who fetches items, one at a time."""
    return ThreadPoolExecutor(1, "hallo3-weights")


class StreamedModule(Generic[M]):
    """Hands out a network whose items follow the computation. Loaded on enter, and kept unless not to be."""

    def __init__(
        self,
        load: Callable[[], StreamableModule[M]],
        device: torch.device,
        *,
        keep: bool = True,
        reader: Callable[[], Executor] = reader_thread,
    ) -> None:
        self._load, self._device, self._keep, self._reader = load, device, keep, reader
        self._kept: StreamableModule[M] | None = None
        self._stream: WeightStream | None = None
        self._home: dict[str, Tensor] = {}

    def __enter__(self) -> M:
        if self._kept is None:
            self._kept = self._load()
        try:
            self._stream = WeightStream(self._kept, self._device, self._reader())
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


class WeightStream:
    """Puts an item's tensors in place before one of its layers runs, and fetches the next one's meanwhile."""

    def __init__(self, stored: StreamableModule[Any], device: torch.device, reader: Executor) -> None:
        self._network, self._shelf, self._device = stored.network, stored.shelf, device
        self._rows, self._staying, self._reader = stored.rows, stored.staying, reader
        self._alone = [number for number, row in enumerate(stored.rows) if len(row) == 1]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._locking = PinnedAllocator()
        self._entered: WeightGroup = ()
        self._here: dict[int, WeightGroup] = {}
        self._stayed: set[WeightGroup] = set()
        self._coming: dict[int, tuple[WeightGroup, Future[_Ready]]] = {}
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

    def _enter(self, row: int, place: int, item: WeightGroup) -> None:
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

    def _arriving(self, row: int, item: WeightGroup) -> Future[_Ready]:
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
    def _fetch(self, item: WeightGroup, left: Any) -> _Ready:
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
    network: M,
    rows: Sequence[Sequence[WeightGroup]],
    *,
    staying: Iterable[WeightGroup] = (),
    locked: bool = False,
) -> StreamableModule[M]:
    """A network's own weights, taken out of it and kept at home; in ``locked`` memory they are sent
    faster. Who calls keeps none of them: of what is packed already there would be two."""
    kept: dict[WeightGroup, Mapping[str, Tensor] | Packed] = {}
    locking = PinnedAllocator()
    for item in (item for row in rows for item in row):
        own = dict(tensors_of(network, item))
        kept[item] = Packed(own, locking) if locked else own
        _empty(network, item, CPU)
    return StreamableModule(network, rows, kept.__getitem__, frozenset(staying))


def _empty(network: nn.Module, item: WeightGroup, device: torch.device) -> None:
    put(
        network, {name: torch.empty(0, dtype=t.dtype, device=device) for name, t in tensors_of(network, item)}
    )


N = TypeVar("N", bound=nn.Module)


class ResidentModule(Generic[N]):
    """Sent to the device item by item when it is first entered, and stays there."""

    def __init__(self, load: Callable[[], StreamableModule[N]], device: torch.device) -> None:
        self._load, self._device = load, device
        self._settled: N | None = None

    def __enter__(self) -> N:
        if self._settled is None:
            network, rows, shelf, _ = self._load()
            locking = PinnedAllocator()
            put(network, {name: tensor.to(self._device) for name, tensor in others_of(network, rows)})
            for item in (item for row in rows for item in row):
                put(network, sent(shelf(item), self._device, locking))
            self._settled = network
        return self._settled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It stays."""
