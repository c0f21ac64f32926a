"""How many bytes the networks of a model take on a device: whole, and by the items they are streamed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import Hallo3Config, to_dict
from ..model.trunk import Trunk
from ..shelves import rows_of, text_rows_of
from ..stored import empty
from ..streaming.items import Item, others_of, tensors_of
from ..weights.precision import Precision


@dataclass(frozen=True, slots=True)
class Row:
    """A row of items: how many, the bytes of the largest, of all, and of the largest ``two`` that follow each
    other, one of which computes while the other comes."""

    count: int
    largest: int
    total: int
    two: int


NO_ROW = Row(0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A network by its rows: ``blocks`` as a step needs them, what is ``modulated``, what projects what is
    heard (``projected``), what runs ``once`` a segment, and the bytes of the ``others``, which belong to no
    item."""

    blocks: Row
    modulated: Row = NO_ROW
    projected: Row = NO_ROW
    once: Row = NO_ROW
    others: int

    @property
    def total(self) -> int:
        """Bytes of the whole network."""
        rows = self.blocks, self.modulated, self.projected, self.once
        return self.others + sum(row.total for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model's networks in a precision: bytes, and the configuration they follow from."""

    config: Hallo3Config
    text: Mapping[str, Any]
    number: int
    """Bytes of a number that flows."""
    transformer: Parts
    reference: Parts
    text_encoder: Parts
    vae: int
    speech_encoder: int


def sizes_of(
    config: Hallo3Config, precision: Precision, text: Mapping[str, Any], speech: Mapping[str, Any]
) -> Sizes:
    """The sizes of a model with these encoders of text and speech, in transformers' own words. Raises
    ``CheckpointError`` for sizes of which no network can be built."""
    values, number = to_dict(config), precision.compute.itemsize
    return Sizes(
        config=config,
        text=text,
        number=number,
        transformer=_trunk(empty("transformer", values), precision),
        reference=_trunk(empty("reference", values), precision),
        text_encoder=_reader(text, precision),
        vae=_numbers(empty("vae", to_dict(config.vae))) * number,
        speech_encoder=_numbers(empty("speech_encoder", speech)) * torch.float32.itemsize,
    )


def in_precision(sizes: Sizes, precision: Precision) -> Sizes:
    """The same model's in another precision."""
    values, number = to_dict(sizes.config), precision.compute.itemsize
    return replace(
        sizes,
        number=number,
        transformer=_trunk(empty("transformer", values), precision),
        reference=_trunk(empty("reference", values), precision),
        text_encoder=_reader(sizes.text, precision),
        vae=sizes.vae // sizes.number * number,
    )


def _reader(text: Mapping[str, Any], precision: Precision) -> Parts:
    t5 = empty("text_encoder", text)
    halves, embedding = text_rows_of(t5)
    return Parts(blocks=_row(t5, halves, precision), once=_row(t5, [*embedding], precision), others=0)


def _trunk(network: nn.Module, precision: Precision) -> Parts:
    trunk = cast(Trunk, network)
    rows = rows_of(trunk)
    others = sum(_held(name, tensor, precision) for name, tensor in others_of(trunk, rows))
    found = [_row(trunk, row, precision) for row in rows]
    heard = found[2:] or [NO_ROW, NO_ROW]
    return Parts(blocks=found[0], modulated=found[1], projected=heard[0], once=heard[1], others=others)


def _row(network: nn.Module, row: Sequence[Item], precision: Precision) -> Row:
    sizes = [
        sum(_held(name, tensor, precision) for name, tensor in tensors_of(network, item)) for item in row
    ]
    two = max(map(sum, pairwise(sizes)), default=sizes[0])
    return Row(len(sizes), max(sizes), sum(sizes), two)


def _held(name: str, tensor: Tensor, precision: Precision) -> int:
    return tensor.numel() * (1 if precision.held(name) else precision.compute.itemsize)


def _numbers(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
