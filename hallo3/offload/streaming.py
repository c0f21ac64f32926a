"""Weight streaming: a network larger than the device fetches its next weights while it computes.

diffusers' group offloading (``apply_group_offloading``) does this for whole blocks or single layers. It is
not used because a memory plan needs what it lacks: weights of a block that are needed at other times (each
step, once per segment, once per run) form groups of their own; a chosen number of blocks stays on the device;
groups come from any verified checkpoint; modules may read weights of layers that they do not call.

A weight group is a tuple of layers that are loaded and evicted together: a block as a step needs it, its
modulations, its projections of conditions, or the audio projection. Groups that follow one another form a
sequence; at most two of a sequence are on the device, one that computes and one that is fetched, beside those
of the first sequence that are resident. Forward hooks on layers, and on modules around them, see which group
is needed; the network itself is unchanged, and so are its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..residency import CPU, PinnedAllocator, release_cached_memory

WeightGroup = tuple[str, ...]  # names of layers that are loaded and evicted together
M = TypeVar("M", bound=nn.Module)


def map_modules_to_groups(sequences: Sequence[Sequence[WeightGroup]]) -> dict[str, tuple[int, int]]:
    """Map each module's name to the (sequence, index) of the group that it needs: the group's layers, and the
    modules around them, which may read weights without calling the layer. A module around several groups of
    a sequence has none; of several sequences the first counts, for a layer itself the last."""
    groups: dict[str, tuple[int, int]] = {}
    ambiguous: set[str] = set()
    for number, sequence in enumerate(sequences):
        for index, layer in ((index, layer) for index, group in enumerate(sequence) for layer in group):
            names = layer.split(".")
            for name in (".".join(names[:count]) for count in range(1, len(names) + 1)):
                known = groups.setdefault(name, (number, index))
                if known != (number, index) and known[0] == number:
                    ambiguous.add(name)
            groups[layer] = number, index
    return {name: group for name, group in groups.items() if name not in ambiguous}


def leaf_names(network: nn.Module, below: str) -> Iterator[str]:
    """Names of the layers at or below ``below`` that have no layers of their own."""
    for name, module in _named_modules(network.get_submodule(below)):
        if not any(True for _ in module.children()):
            yield f"{below}.{name}" if name else below


def set_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for path, tensor in tensors.items():
        parent, _, name = path.rpartition(".")
        module = network.get_submodule(parent)
        parameter = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)


def group_tensors(network: nn.Module, group: WeightGroup) -> Iterator[tuple[str, Tensor]]:
    for layer in group:
        module = network.get_submodule(layer)
        yield from ((f"{layer}.{name}", parameter.data) for name, parameter in module.named_parameters())
        yield from ((f"{layer}.{name}", buffer) for name, buffer in module.named_buffers())


def ungrouped_tensors(
    network: nn.Module, sequences: Sequence[Sequence[WeightGroup]]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of no group, by their names in the network."""
    grouped = {layer for sequence in sequences for group in sequence for layer in group}
    for name, module in _named_modules(network):
        if name not in grouped:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield from ((f"{name}.{key}" if name else key, tensor.data) for key, tensor in own)


def _named_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from cast("Iterator[tuple[str, nn.Module]]", network.named_modules())


CHUNK_BYTES = 32 << 20
ALIGNMENT_BYTES = 256
RING_CHUNKS = 3


class TensorSlice(NamedTuple):
    """Where a tensor is in packed memory."""

    start: int
    bytes: int
    dtype: torch.dtype
    shape: torch.Size


class PackedLayout:
    """Where tensors are in one piece of memory; ``size`` is with alignment."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._slices, self.size = dict[str, TensorSlice](), 0
        for name, tensor in tensors.items():
            self._slices[name] = TensorSlice(self.size, tensor.nbytes, tensor.dtype, tensor.shape)
            self.size += -(-tensor.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def allocate(self, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """One piece of a device's memory, and the tensors in it."""
        packed = torch.empty(self.size, dtype=torch.uint8, device=device)
        return packed, {
            name: packed[each.start : each.start + each.bytes].view(each.dtype).view(each.shape)
            for name, each in self._slices.items()
        }

    def chunks(self, tensors: Mapping[str, Tensor]) -> Iterator[list[tuple[int, Tensor]]]:
        """For each ``CHUNK_BYTES`` of the memory the bytes in it, each part with its start."""
        parts, number = list[tuple[int, Tensor]](), 0
        for name, tensor in tensors.items():
            source, start = tensor.contiguous().reshape(-1).view(torch.uint8), self._slices[name].start
            while len(source):
                while start // CHUNK_BYTES > number:
                    yield parts
                    number, parts = number + 1, []
                offset = start % CHUNK_BYTES
                part = source[: CHUNK_BYTES - offset]
                parts.append((offset, part))
                source, start = source[len(part) :], start + len(part)
        yield parts


class PackedTensors:
    """Tensors in one piece of RAM, sent together. Unpinned by default."""

    def __init__(self, tensors: Mapping[str, Tensor], allocator: PinnedAllocator | None = None) -> None:
        allocator, self._layout = allocator or PinnedAllocator(wanted=False), PackedLayout(tensors)
        self._chunks, self.size = list[Tensor](), self._layout.size
        for number, parts in enumerate(self._layout.chunks(tensors)):  # in powers of two, as CUDA rounds up
            rest = self.size - number * CHUNK_BYTES
            chunk = allocator.empty([min(CHUNK_BYTES, 1 << (rest - 1).bit_length())], torch.uint8)
            for start, part in parts:
                chunk[start : start + len(part)] = part
            self._chunks.append(chunk)

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """New tensors on a device; copies from pinned memory are queued on the current stream."""
        packed, tensors = self._layout.allocate(device)
        for number, chunk in enumerate(self._chunks):
            target = packed[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            target.copy_(chunk[: len(target)], non_blocking=True)
        return tensors


class PinnedRing:
    """A few pinned chunks through which tensors of any size reach a GPU: pinning them themselves would take
    the next power of two of their bytes, which CUDA keeps. For one thread."""

    def __init__(self) -> None:
        self._allocator, self._sent = PinnedAllocator(), 0
        self._chunks: list[tuple[Tensor, torch.cuda.Event]] = []

    def send(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """New tensors on a GPU, in one piece of memory; copies are queued on the current stream."""
        layout = PackedLayout(tensors)
        packed, sent = layout.allocate(device)
        for number, parts in enumerate(layout.chunks(tensors)):
            chunk, copied = self._next_chunk()
            for start, part in parts:
                chunk[start : start + len(part)] = part
            target = packed[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            target.copy_(chunk[: len(target)], non_blocking=True)
            copied.record(torch.cuda.current_stream(device))
        return sent

    def _next_chunk(self) -> tuple[Tensor, torch.cuda.Event]:
        """A chunk that nothing is copied from any more, and the event of its next copy."""
        if len(self._chunks) < RING_CHUNKS:
            chunk = self._allocator.empty([CHUNK_BYTES], torch.uint8)
            self._chunks.append((chunk, torch.cuda.Event(blocking=True)))
            return self._chunks[-1]
        chunk, copied = self._chunks[self._sent % RING_CHUNKS]
        self._sent += 1
        copied.synchronize()
        return chunk, copied


Weights = Mapping[str, Tensor] | PackedTensors  # tensors by their names in the network
WeightStore = Callable[[WeightGroup], Weights]  # loads a group's weights from RAM or disk
Fetched = tuple[Mapping[str, Tensor], Any]  # and a CUDA event of their arrival, or None


def send(weights: Weights, device: torch.device, ring: PinnedRing) -> Mapping[str, Tensor]:
    """Copy to a device; copies to a GPU come from pinned memory and are queued on the current stream."""
    if isinstance(weights, PackedTensors):
        return weights.to(device)
    if device.type == "cuda":
        return ring.send(weights, device)
    return {name: tensor.to(device) for name, tensor in weights.items()}


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that weights reach a GPU on, one for all networks: each stream has memory of its own, which
    others cannot use."""
    return torch.cuda.Stream(device)


class StreamableModule(NamedTuple, Generic[M]):
    """A network without the weights of its groups, and the store that has them. The first sequence repeats; a
    sequence of one group shares the device with no other. ``resident`` groups of the first sequence stay
    until the network is left. The last sequence may have parts of the first one's groups: a part is loaded
    where its layers are called, and the whole neither there nor on its way."""

    network: M
    sequences: Sequence[Sequence[WeightGroup]]
    store: WeightStore
    resident: frozenset[WeightGroup] = frozenset()


def store_in_memory(
    network: M,
    sequences: Sequence[Sequence[WeightGroup]],
    *,
    resident: Iterable[WeightGroup] = (),
    pinned: bool = False,
) -> StreamableModule[M]:
    """Move a network's grouped weights to a store in RAM. Pinned weights are copied: without other references
    the originals are freed one group at a time."""
    weights: dict[WeightGroup, Weights] = {}
    allocator = PinnedAllocator()
    for group in (group for sequence in sequences for group in sequence):
        tensors = dict(group_tensors(network, group))
        weights[group] = PackedTensors(tensors, allocator) if pinned else tensors
        _clear_group(network, group, CPU)
    return StreamableModule(network, sequences, weights.__getitem__, frozenset(resident))


def _clear_group(network: nn.Module, group: WeightGroup, device: torch.device) -> None:
    tensors = group_tensors(network, group)
    set_tensors(network, {name: torch.empty(0, dtype=each.dtype, device=device) for name, each in tensors})


class ResidentModule(Generic[M]):
    """Sent to the device group by group on first enter, which ``show`` surrounds; stays there."""

    def __init__(
        self,
        load: Callable[[], StreamableModule[M]],
        device: torch.device,
        show: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._load, self._device, self._show = load, device, show
        self._network: M | None = None

    def __enter__(self) -> M:
        if self._network is None:
            with self._show():
                network, sequences, store, _ = self._load()
                ring, ungrouped = PinnedRing(), ungrouped_tensors(network, sequences)
                set_tensors(network, {name: tensor.to(self._device) for name, tensor in ungrouped})
                for group in (group for sequence in sequences for group in sequence):
                    set_tensors(network, send(store(group), self._device, ring))
            self._network = network
        return self._network

    def __exit__(self, *_: object) -> None: ...


class StreamedModule(Generic[M]):
    """A network whose weight groups follow the computation; loaded on enter, kept if ``keep``. Of a network
    that is kept the first sequence is expected again and again, and with ``keep_resident`` its resident
    groups stay on the device when it is left, and beside a sequence of one group. ``show`` lasts from enter
    to exit."""

    def __init__(
        self,
        load: Callable[[], StreamableModule[M]],
        device: torch.device,
        *,
        keep: bool = True,
        keep_resident: bool = False,
        show: Callable[[], AbstractContextManager[None]] = nullcontext,
        executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, "hallo3-weights"),
    ) -> None:
        self._load, self._device, self._keep, self._executor = load, device, keep, executor
        self._keep_resident, self._staying = keep_resident, set[WeightGroup]()
        self._show, self._shown = show, ExitStack()
        self._module: StreamableModule[M] | None = None
        self._stream: WeightStream | None = None
        self._ungrouped: dict[str, Tensor] = {}

    def __enter__(self) -> M:
        try:
            self._shown.enter_context(self._show())
            if self._module is None:
                self._module = self._load()
            network, sequences, _, _ = self._module
            staying = self._staying if self._keep_resident else None
            self._stream = WeightStream(
                self._module, self._device, self._executor(), repeats=self._keep, staying=staying
            )
            self._ungrouped = dict(ungrouped_tensors(network, sequences))
            set_tensors(network, {name: each.to(self._device) for name, each in self._ungrouped.items()})
        except BaseException as error:
            self.__exit__(error)
            raise
        return network

    def __exit__(self, *raised: object) -> None:
        if self._stream is not None:
            self._stream.close(evict_resident=not self._keep_resident or any(raised))
            self._stream = None
        if self._module is not None:
            set_tensors(self._module.network, self._ungrouped)
        self._ungrouped = {}
        if not self._keep:
            self._module = None
        release_cached_memory()
        self._shown.close()


class WeightStream:
    """Sets a group's weights before one of its layers runs, and prefetches the next group of its sequence.
    ``staying`` has the resident groups that are on the device already; it is kept up to date."""

    def __init__(
        self,
        module: StreamableModule[Any],
        device: torch.device,
        executor: Executor,
        *,
        repeats: bool,
        staying: set[WeightGroup] | None,
    ) -> None:
        self._network, self._sequences, self._store, self._resident = module
        self._device, self._executor, self._repeats = device, executor, repeats
        self._alone = [number for number, groups in enumerate(module.sequences) if len(groups) == 1]
        self._copy_stream = copy_stream(device) if device.type == "cuda" else None
        self._ring = PinnedRing()
        self._loaded: dict[int, WeightGroup] = {}  # by sequence
        self._keep_resident = staying is not None
        self._resident_loaded = set[WeightGroup]() if staying is None else staying
        self._prefetches: dict[int, tuple[WeightGroup, Future[Fetched]]] = {}  # by sequence
        self._evicted: Any = None  # CUDA event after the last use of what was evicted
        blocks, others = module.sequences[:1], module.sequences[1:]
        first = {layer: n for groups in blocks for n, group in enumerate(groups) for layer in group}
        parts = (group for groups in others for group in groups if group[0] in first)
        self._whole = {group: first[group[0]] for group in parts}  # index in the first sequence
        for group in (group for groups in module.sequences for group in groups):
            if self._find_whole(group) not in self._resident_loaded:
                _clear_group(self._network, group, device)
        self._hooks = [
            self._network.get_submodule(name).register_forward_pre_hook(partial(self._load_group, *place))
            for name, place in map_modules_to_groups(module.sequences).items()
        ]

    def close(self, *, evict_resident: bool) -> None:
        for hook in self._hooks:
            hook.remove()
        self._executor.shutdown(cancel_futures=True)
        self._evict_all(resident=evict_resident)

    def _find_whole(self, group: WeightGroup) -> WeightGroup:
        return self._sequences[0][self._whole[group]] if group in self._whole else group

    def _load_group(self, sequence: int, index: int, *_: object) -> None:
        """Before a layer of the group runs."""
        group = self._sequences[sequence][index]
        if group in self._whole:
            whole = self._find_whole(group)
            if whole in self._resident_loaded or self._loaded.get(0) == whole:
                return
            if 0 in self._prefetches and self._prefetches[0][0] == whole:
                sequence, index, group = 0, self._whole[group], whole
        if self._loaded.get(sequence) == group:
            return
        if sequence in self._alone:
            self._evict_all(resident=not self._keep_resident)
        else:
            self._evict(list(self._loaded) if sequence == 0 else [sequence, *self._alone])
        if sequence == 0 and self._whole:
            self._cancel_prefetch(len(self._sequences) - 1)
        if group not in self._resident_loaded:
            if sequence in self._prefetches and self._prefetches[sequence][0] == group:
                future = self._prefetches.pop(sequence)[1]
            else:
                self._cancel_prefetch(sequence)
                future = self._executor.submit(self._fetch, group, self._evicted)
            tensors, arrival = future.result()
            if self._copy_stream is not None:
                stream = torch.cuda.current_stream(self._device)
                stream.wait_event(arrival)
                for tensor in tensors.values():
                    tensor.record_stream(stream)
            set_tensors(self._network, tensors)
            if group in self._resident:
                self._resident_loaded.add(group)
        self._loaded[sequence] = group
        self._prefetch_after(sequence, index)

    def _prefetch_after(self, sequence: int, index: int) -> None:
        """Prefetch the next group; the first sequence wraps around."""
        groups = self._sequences[sequence]
        following = [*groups[index + 1 :], *(groups[:index] if self._repeats and sequence == 0 else ())]
        following = (group for group in following if self._find_whole(group) not in self._resident_loaded)
        wanted = next(following, None)
        if sequence in self._prefetches and self._prefetches[sequence][0] == wanted:
            return
        self._cancel_prefetch(sequence)
        if wanted is not None:
            self._prefetches[sequence] = wanted, self._executor.submit(self._fetch, wanted, self._evicted)

    def _cancel_prefetch(self, sequence: int) -> None:
        if sequence in self._prefetches:
            self._prefetches.pop(sequence)[1].cancel()

    def _evict(self, sequences: Iterable[int]) -> None:
        """Evict loaded groups that are not resident; kernels that still use their weights keep them alive."""
        groups = {
            self._loaded.pop(each) for each in sequences if each in self._loaded
        } - self._resident_loaded
        for group in groups:
            _clear_group(self._network, group, self._device)
        if groups and self._copy_stream is not None:
            self._evicted = torch.cuda.Event(
                blocking=True
            )  # others keep a core busy while they are waited for
            self._evicted.record(torch.cuda.current_stream(self._device))

    def _evict_all(self, *, resident: bool) -> None:
        for sequence in list(self._prefetches):
            self._cancel_prefetch(sequence)
        if resident:
            self._loaded |= {-1 - number: group for number, group in enumerate(self._resident_loaded)}
            self._resident_loaded.clear()
        self._evict(list(self._loaded))

    @torch.inference_mode()
    def _fetch(self, group: WeightGroup, evicted: Any) -> Fetched:
        """In the prefetch thread: send a group to the device, once the device is done with what was evicted;
        otherwise a fast CPU would fill it with groups that wait."""
        weights = self._store(group)
        if self._copy_stream is None:
            return send(weights, self._device, self._ring), None
        if evicted is not None:
            evicted.synchronize()
        with torch.cuda.stream(self._copy_stream):
            tensors = send(weights, self._device, self._ring)
            return tensors, self._copy_stream.record_event()
