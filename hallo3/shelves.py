"""Where the blocks of a streamed network are kept: in memory, or on disk as they were stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from .model.trunk import Trunk
from .streaming import Stored, put
from .weights.files import held
from .weights.part import find_part
from .weights.precision import Precision, scales_of
from .weights.source import open_source

N = TypeVar("N", bound=Trunk)
BLOCKS = "transformer_blocks."


def blocks_of(network: Trunk) -> Sequence[nn.Module]:
    """The blocks of a network, which are streamed one by one."""
    return cast("Sequence[nn.Module]", network.transformer_blocks)


def on_disk(network: N, path: Path, part: str, precision: Precision) -> Stored[N]:
    """A network on meta whose blocks are read from its file, each time they are needed; the rest is read now.

    The file has been checked against the network. Raises ``CheckpointError`` when it cannot be read, or has
    changed.
    """
    source = open_source(path)
    found = find_part(source, part)
    blocks = blocks_of(network)
    names: list[list[str]] = [[] for _ in blocks]
    put(network, {name: torch.ones(()) for name in scales_of(network) if not name.startswith(BLOCKS)})
    for name in found.made:
        if name.startswith(BLOCKS):
            names[int(name.split(".")[1])].append(name)
        else:
            put(network, held(found, name, precision))
    scales = [list(scales_of(block)) for block in blocks]

    def shelf(index: int) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = {name: torch.ones(()) for name in scales[index]}
        for name in names[index]:
            read = held(found, name, precision)
            state.update({key.removeprefix(f"{BLOCKS}{index}."): tensor for key, tensor in read.items()})
        return state

    network.eval().requires_grad_(False)
    return Stored(network, blocks, shelf)
