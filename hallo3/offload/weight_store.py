"""Weight groups of the large networks, and stores that read them from a checkpoint when they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..checkpoints.component import StoredComponent
from ..checkpoints.load import find_part, read_tensor
from ..checkpoints.source import CheckpointSource
from ..model import embeddings
from ..model.embeddings import convolve_pairs, pair_frames
from ..model.transformer import ReferenceNetwork, Trunk
from ..quantization import Precision, default_scales
from .streaming import StreamableModule, WeightGroup, leaf_names, set_tensors

N = TypeVar("N", bound=nn.Module)
MODULATIONS = ("norm1.linear", "norm2.linear")  # layers of a block that run once for all steps
PROJECTIONS = ("attn_face.to_k", "attn_face.to_v", "attn_face.to_out.0", "attn_audio.to_k", "attn_audio.to_v")
"""Layers of a block that prepare conditions, once per run or segment."""
UNGROUPED = ("attn1.norm_q", "attn1.norm_k")  # small; blocks and the preparation of conditions need them
AUDIO_KERNEL = "audio_proj.conv1"  # the one layer of 2.4 GB
EMBEDDING, UNUSED = "encoder.embed_tokens", "shared.weight"  # T5's embedding: the name used, and the other


def split_groups(network: Trunk) -> list[Sequence[WeightGroup]]:
    """Groups of a large network: blocks, modulations, projections of conditions, the audio projection."""
    sequences: tuple[list[WeightGroup], ...] = [], [], []
    for index in range(len(network.transformer_blocks)):
        groups: tuple[list[str], ...] = [], [], []
        for layer in leaf_names(network, f"transformer_blocks.{index}"):
            if not layer.endswith(UNGROUPED):
                kind = 1 if layer.endswith(MODULATIONS) else 2 if layer.endswith(PROJECTIONS) else 0
                groups[kind].append(layer)
        for sequence, group in zip(sequences, groups, strict=True):
            sequence.append(tuple(group))
    once = [tuple(leaf_names(network, "audio_proj"))] if hasattr(network, "audio_proj") else []
    return [sequence for sequence in (*sequences, once) if any(sequence)]


def split_for_disk(network: Trunk) -> list[Sequence[WeightGroup]]:
    """The groups where reading costs time: face and audio are projected at other times, what prepares
    reference features is a part of a block, and of the reference network's last block only a norm is used."""
    blocks, modulations, *others = split_groups(network)
    if isinstance(network, ReferenceNetwork):
        unused = tuple(layer for layer in blocks[-1] if not layer.endswith("norm1.norm"))
        return [blocks[:-1], modulations, [unused]]
    projections, *once = others
    by_condition = [
        [tuple(layer for layer in group if f".attn_{condition}." in layer) for group in projections]
        for condition in ("face", "audio")
    ]
    names = (f"transformer_blocks.{index}.attn1" for index in range(len(blocks)))
    return [blocks, modulations, *by_condition, *once, [(f"{name}.to_k", f"{name}.to_v") for name in names]]


def split_text_groups(t5: nn.Module) -> list[Sequence[WeightGroup]]:
    """Sequences of T5's encoder: half blocks, and the embedding."""
    blocks = t5.get_submodule("encoder.block")
    halves = [
        f"encoder.block.{block}.layer.{half}"
        for block, _ in enumerate(blocks.children())
        for half, _ in enumerate(blocks.get_submodule(f"{block}.layer").children())
    ]
    return [[tuple(leaf_names(t5, half)) for half in halves], [(EMBEDDING,)]]


def choose_resident(sequence: Sequence[WeightGroup], count: int) -> frozenset[WeightGroup]:
    """``count`` groups; those that are streamed are spread evenly between them."""
    streamed = max(0, len(sequence) - count)
    places = {(2 * number + 1) * len(sequence) // (2 * streamed) for number in range(streamed)}
    return frozenset(group for place, group in enumerate(sequence) if place not in places)


def store_on_disk(
    network: N,
    sequences: Sequence[Sequence[WeightGroup]],
    checkpoint: CheckpointSource,
    component: str,
    precision: Precision,
    *,
    names: Mapping[str, str] | None = None,
    resident: Iterable[WeightGroup] = (),
    in_ram: Iterable[WeightGroup] = (),
    in_pieces: Collection[str] = (),
) -> StreamableModule[N]:
    """A network on meta whose groups are read from its checkpoint each time they are needed, those ``in_ram``
    once; the other tensors are read now. Large kernels of convolutions ``in_pieces`` are in no group: they
    are read while they compute. ``names`` maps names in the file to those in the network. The file was
    checked against the network before. Raises ``CheckpointError`` if it cannot be read, or has changed."""
    source, names = find_part(checkpoint, component), names or {}
    candidates = [f"{layer}.weight" for layer in in_pieces]
    kernels = {n for n in candidates if source.assemblies[n].shape[0] > embeddings.KERNEL_ROWS}
    sequences = [
        [tuple(layer for layer in group if f"{layer}.weight" not in kernels) for group in groups]
        for groups in sequences
    ]
    grouped = {layer for sequence in sequences for group in sequence for layer in group}
    in_file, scales = defaultdict[str, list[str]](list), defaultdict[str, dict[str, Tensor]](dict)
    for name in source.assemblies:
        layer = names.get(name, name).rpartition(".")[0]
        if layer in grouped:
            in_file[layer].append(name)
        elif name in kernels:
            convolution = network.get_submodule(layer)
            vars(convolution)["forward"] = partial(_convolve, convolution, source, name, precision.compute)
            set_tensors(network, {name: torch.empty(0, dtype=precision.compute)})
        else:
            set_tensors(network, read_tensor(source, name, precision))
    for name, scale in default_scales(network).items():
        scales[name.rpartition(".")[0]][name] = scale
    for layer in scales.keys() - grouped:
        set_tensors(network, scales[layer])

    def read_group(group: WeightGroup) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = {}
        for layer in group:
            state |= scales.get(layer, {})
            for name in in_file[layer]:
                tensors = read_tensor(source, name, precision)
                state.update((names.get(key, key), tensor) for key, tensor in tensors.items())
        return state

    kept = {group: cache(partial(read_group, group)) for group in in_ram}

    def store(group: WeightGroup) -> Mapping[str, Tensor]:
        return kept[group]() if group in kept else read_group(group)

    network.eval().requires_grad_(False)
    return StreamableModule(network, sequences, store, frozenset(resident))


def _convolve(
    layer: nn.Module, source: StoredComponent, kernel: str, dtype: torch.dtype, x: Tensor
) -> Tensor:
    """``AudioProjection``'s convolution of x [B, C, 2T] -> [B, D, T] with a kernel [D, C, 2] in a file, equal
    bit for bit to that with one in memory: as many rows are in memory as it multiplies at a time."""
    rows, pairs = embeddings.KERNEL_ROWS, pair_frames(x.transpose(1, 2))
    weights = source.values(kernel, dtype, rows * pairs.shape[-1])
    pieces = (
        (weight.to(x).view(-1, pairs.shape[-1]), bias)
        for weight, bias in zip(weights, torch.split(cast(Tensor, layer.bias), rows), strict=True)
    )
    return convolve_pairs(pairs, pieces).transpose(1, 2)
