"""Weight groups of the large networks, and stores that read them from a checkpoint when they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from ..checkpoints.load import find_part, read_tensor
from ..checkpoints.source import CheckpointSource
from ..model.transformer import Trunk
from ..quantization import Precision, default_scales
from .streaming import StreamableModule, WeightGroup, leaf_names, set_tensors

N = TypeVar("N", bound=nn.Module)
MODULATIONS = ("norm1.linear", "norm2.linear")  # layers of a block that run once for all steps
PROJECTIONS = ("attn_face.to_k", "attn_face.to_v", "attn_face.to_out.0", "attn_audio.to_k", "attn_audio.to_v")
"""Layers of a block that prepare conditions, once per run or segment."""
UNGROUPED = ("attn1.norm_q", "attn1.norm_k")  # small; blocks and the preparation of conditions need them
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
) -> StreamableModule[N]:
    """A network on meta whose groups are read from its checkpoint each time they are needed; the other
    tensors are read now. ``names`` maps names in the file to those in the network. The file was checked
    against the network before. Raises ``CheckpointError`` if it cannot be read, or has changed."""
    source, names = find_part(checkpoint, component), names or {}
    groups = {layer: group for sequence in sequences for group in sequence for layer in group}
    in_file: dict[WeightGroup, list[str]] = defaultdict(list)
    for name in source.assemblies:
        group = groups.get(names.get(name, name).rpartition(".")[0])
        if group is None:
            set_tensors(network, read_tensor(source, name, precision))
        else:
            in_file[group].append(name)
    scales: dict[WeightGroup, dict[str, Tensor]] = defaultdict(dict)
    for name, scale in default_scales(network).items():
        scales[groups.get(name.rpartition(".")[0], ())][name] = scale
    set_tensors(network, scales[()])

    def read_group(group: WeightGroup) -> Mapping[str, Tensor]:
        state = dict(scales[group])
        for name in in_file[group]:
            tensors = read_tensor(source, name, precision)
            state.update((names.get(key, key), tensor) for key, tensor in tensors.items())
        return state

    network.eval().requires_grad_(False)
    return StreamableModule(network, sequences, read_group, frozenset(resident))
