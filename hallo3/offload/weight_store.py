"""How the large networks are cut into items that are streamed, and their items on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints.component import find_component
from ..checkpoints.load import read_tensor
from ..checkpoints.source import open_source
from ..model.transformer import Trunk
from ..quantization.precision import Precision, default_scales
from .streaming import StreamableModule, WeightGroup, in_memory, leaves, put

N = TypeVar("N", bound=nn.Module)
BLOCKS = "transformer_blocks"
MODULATION = ("norm1.linear", "norm2.linear")
"""Layers of a block that run once for all steps; a step does not need them."""
PROJECTED = ("attn_face.to_k", "attn_face.to_v", "attn_face.to_out.0", "attn_audio.to_k", "attn_audio.to_v")
"""Layers of a block that prepare what it hears, once a run or a segment; a step does not need them either."""
EVERYWHERE = ("attn1.norm_q", "attn1.norm_k")
"""Layers of a block that belong to no item: small, and needed by the block and by what is prepared for it."""
ONCE = "audio_proj"
"""What runs once a segment."""
EMBEDDING, UNUSED = "encoder.embed_tokens", "shared.weight"
"""T5's embedding under the name by which it is used, and by which it is not."""


def split_groups(network: Trunk) -> list[Sequence[WeightGroup]]:
    """Blocks as a step needs them, their modulations, their projections of what is heard, and the audio
    projection; what a network does not have is left out."""
    rows: tuple[list[WeightGroup], ...] = [], [], []
    for index in range(len(network.transformer_blocks)):
        parts: tuple[list[str], ...] = [], [], []
        for layer in leaves(network, f"{BLOCKS}.{index}"):
            if not layer.endswith(EVERYWHERE):
                parts[1 if layer.endswith(MODULATION) else 2 if layer.endswith(PROJECTED) else 0].append(
                    layer
                )
        for row, part in zip(rows, parts, strict=True):
            row.append(tuple(part))
    once = [tuple(leaves(network, ONCE))] if hasattr(network, ONCE) else []
    return [row for row in (*rows, once) if any(row)]


def split_text_groups(t5: nn.Module) -> list[Sequence[WeightGroup]]:
    """T5's encoder: its blocks by halves, and the embedding."""
    encoder = t5.get_submodule("encoder.block")
    halves = [
        f"encoder.block.{block}.layer.{half}"
        for block, _ in enumerate(encoder.children())
        for half, _ in enumerate(encoder.get_submodule(f"{block}.layer").children())
    ]
    return [[tuple(leaves(t5, half)) for half in halves], [(EMBEDDING,)]]


def choose_resident(row: Sequence[WeightGroup], staying: int) -> frozenset[WeightGroup]:
    """So many items of a row, with those that do not stay evenly between them."""
    passing = max(0, len(row) - staying)
    pass_by = {(2 * number + 1) * len(row) // (2 * passing) for number in range(passing)}
    return frozenset(item for place, item in enumerate(row) if place not in pass_by)


def text_in_memory(t5: nn.Module) -> StreamableModule[nn.Module]:
    """T5's encoder with its weights at home."""
    put(t5, {UNUSED: t5.get_parameter(UNUSED).new_empty(0)})
    return in_memory(t5, split_text_groups(t5))


def text_on_disk(t5: nn.Module, path: Path, precision: Precision) -> StreamableModule[nn.Module]:
    """T5's encoder, see :func:`on_disk`."""
    put(t5, {UNUSED: torch.empty(0, dtype=precision.compute)})
    return on_disk(
        t5, split_text_groups(t5), path, "text_encoder", precision, names={UNUSED: f"{EMBEDDING}.weight"}
    )


def on_disk(
    network: N,
    rows: Sequence[Sequence[WeightGroup]],
    path: Path,
    part: str,
    precision: Precision,
    *,
    names: Mapping[str, str] | None = None,
    staying: Iterable[WeightGroup] = (),
) -> StreamableModule[N]:
    """A network on meta whose items are read from its file, each time they are needed; the rest is read now.
    ``names`` are the network's for tensors of another name in the file.

    The file has been checked against the network. Raises ``CheckpointError`` when it cannot be read, or has
    changed.
    """
    found, ours = find_component(open_source(path), part), names or {}
    home = {layer: item for row in rows for item in row for layer in item}
    stored: dict[WeightGroup, list[str]] = defaultdict(list)
    for name in found.made:
        item = home.get(ours.get(name, name).rpartition(".")[0])
        if item is None:
            put(network, read_tensor(found, name, precision))
        else:
            stored[item].append(name)
    scales: dict[WeightGroup, dict[str, Tensor]] = defaultdict(dict)
    for name, ones in default_scales(network).items():
        scales[home.get(name.rpartition(".")[0], ())][name] = ones
    put(network, scales[()])

    def shelf(item: WeightGroup) -> Mapping[str, Tensor]:
        state = dict(scales[item])
        for name in stored[item]:
            state.update(
                (ours.get(key, key), tensor) for key, tensor in read_tensor(found, name, precision).items()
            )
        return state

    network.eval().requires_grad_(False)
    return StreamableModule(network, rows, shelf, frozenset(staying))
