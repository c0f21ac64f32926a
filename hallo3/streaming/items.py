"""Layers of a network that come and go together, and the tensors of such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

Item = tuple[str, ...]
"""Layers that come and go together, by their names in the network."""


def over_items(rows: Sequence[Sequence[Item]]) -> dict[str, tuple[int, int]]:
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


def tensors_of(network: nn.Module, item: Item) -> Iterator[tuple[str, Tensor]]:
    """An item's tensors in a network, by their names in it."""
    for layer in item:
        module = network.get_submodule(layer)
        yield from ((f"{layer}.{name}", parameter.data) for name, parameter in module.named_parameters())
        yield from ((f"{layer}.{name}", buffer) for name, buffer in module.named_buffers())


def others_of(network: nn.Module, rows: Sequence[Sequence[Item]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that belong to no item, by their names in the network."""
    items = {layer for row in rows for item in row for layer in item}
    for name, module in _modules(network):
        if name not in items:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield from ((f"{name}.{key}" if name else key, tensor.data) for key, tensor in own)


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from cast("Iterator[tuple[str, nn.Module]]", network.named_modules())
