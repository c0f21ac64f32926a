"""What a computation moves and holds, counted operation by operation; on the meta device nothing is computed.

Every operation counts all it reads and all it writes. Views move nothing. An operation of ours
(``hallo3::``) counts as any other: by its inputs and outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tracker(TorchDispatchMode):
    """While entered: ``traffic`` bytes read and written, ``operations`` that moved any, ``live`` bytes of
    storages made since, ``peak`` the most of these at once. Storages that were there before are not counted.

    ``kind`` is the device whose storages are counted, all if None.
    """

    def __init__(self, kind: str | None = None) -> None:
        super().__init__()
        self._kind = kind
        self._storages: dict[int, tuple[Any, int]] = {}
        self.live = self.peak = self.operations = 0
        self.moved: Counter[str] = Counter()

    @property
    def traffic(self) -> int:
        """Bytes read and written."""
        return sum(self.moved.values())

    def restart_peak(self) -> None:
        """Count the peak from here on."""
        self.peak = self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((args, kwargs or {})))
        before = {_storage(tensor)._cdata for tensor in given}
        result = func(*args, **(kwargs or {}))
        made = list(_tensors(result))
        writes = [arg for arg in func._schema.arguments if arg.alias_info and arg.alias_info.is_write]
        fresh = [tensor for tensor in made if _storage(tensor)._cdata not in before]
        if (fresh or writes) and func not in _FREE:
            read = sum(map(_bytes, _read(func, args, kwargs or {})))
            written = sum(map(_bytes, made if writes else fresh))
            self.moved[str(func)] += read + written
            self.operations += 1
        for tensor in fresh:
            self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if self._kind is not None and tensor.device.type != self._kind:
            return
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            self.live -= self._storages.pop(key)[1]

        self._storages[key] = (ref(storage, gone), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __enter__(self) -> Self:
        super().__enter__()
        return self


_aten = torch.ops.aten
_FREE = {
    _aten.empty.memory_format,
    _aten.new_empty.default,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.detach.default,
}
"""They make room and write nothing."""
_WRITERS = {
    _aten.fill_.Scalar,
    _aten.zero_.default,
    _aten.zeros_like.default,
    _aten.new_zeros.default,
    _aten.copy_.default,
}
"""They do not read their first tensor."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention on meta as a GPU has it, one operation that stores no scores; elsewhere meta spells it
    out."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _read(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """What an operation reads: not what it only writes to."""
    written = {argument.name for argument in func._schema.arguments if argument.is_out}
    first = 1 if func in _WRITERS else 0
    yield from _tensors(
        (args[first:], {name: value for name, value in kwargs.items() if name not in written})
    )


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _bytes(tensor: Tensor) -> int:
    """Bytes of the different elements of a tensor: what is only expanded is read once."""
    count = tensor.element_size()
    for extent, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= extent if stride else 1
    return count


def tracked(run: Callable[[], object], kind: str | None = None) -> Tracker:
    """Run something once and count it."""
    with Tracker(kind) as tracker:
        kept = run()
        del kept
    return tracker
