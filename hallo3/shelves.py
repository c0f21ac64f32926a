"""How the two large networks are cut into items that are streamed, and their items on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .model.trunk import Trunk
from .streaming import Item, Stored, leaves, put
from .weights.files import held
from .weights.part import find_part
from .weights.precision import Precision, scales_of
from .weights.source import open_source

N = TypeVar("N", bound=Trunk)
BLOCKS = "transformer_blocks"
MODULATION = ("norm1.linear", "norm2.linear")
"""Layers of a block that run once for all steps; a step does not need them."""
ONCE = "audio_proj"
"""What runs once a segment."""


def rows_of(network: Trunk) -> list[Sequence[Item]]:
    """Blocks without their modulation, modulations, and the audio projection if there is one."""
    blocks: list[Item] = []
    modulations: list[Item] = []
    for index in range(len(network.transformer_blocks)):
        layers = list(leaves(network, f"{BLOCKS}.{index}"))
        modulations.append(tuple(layer for layer in layers if layer.endswith(MODULATION)))
        blocks.append(tuple(layer for layer in layers if not layer.endswith(MODULATION)))
    once = [tuple(leaves(network, ONCE))] if hasattr(network, ONCE) else []
    return [blocks, modulations, once]


def on_disk(network: N, path: Path, part: str, precision: Precision) -> Stored[N]:
    """A network on meta whose items are read from its file, each time they are needed; the rest is read now.

    The file has been checked against the network. Raises ``CheckpointError`` when it cannot be read, or has
    changed.
    """
    found = find_part(open_source(path), part)
    rows = rows_of(network)
    home = {layer: item for row in rows for item in row for layer in item}
    names: dict[Item, list[str]] = defaultdict(list)
    for name in found.made:
        item = home.get(name.rpartition(".")[0])
        if item is None:
            put(network, held(found, name, precision))
        else:
            names[item].append(name)
    scales: dict[Item, list[str]] = defaultdict(list)
    for name in scales_of(network):
        scales[home.get(name.rpartition(".")[0], ())].append(name)
    put(network, {name: torch.ones(()) for name in scales[()]})

    def shelf(item: Item) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = {name: torch.ones(()) for name in scales[item]}
        for name in names[item]:
            state.update(held(found, name, precision))
        return state

    network.eval().requires_grad_(False)
    return Stored(network, rows, shelf)
