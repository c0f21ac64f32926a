"""Bytes of a model's weights, by groups that are streamed together, counted on the meta device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoints.component import find_component
from ..checkpoints.load import build_on_meta, get_config
from ..checkpoints.locate import ModelFolder
from ..config import SPEECH_ENCODERS, TEXT_ENCODERS, Hallo3Config, to_dict
from ..errors import CheckpointError
from ..model.embeddings import KERNEL_ROWS
from ..model.transformer import Trunk
from ..quantization import Precision
from .streaming import WeightGroup, group_tensors, ungrouped_tensors
from .weight_store import AUDIO_KERNEL, split_for_disk, split_groups, split_text_groups


@dataclass(frozen=True, slots=True)
class SequenceSizes:
    """Bytes of a sequence of groups; of two neighbours one computes while the next is fetched."""

    count: int = 0
    largest: int = 0
    total: int = 0
    largest_pair: int = 0


EMPTY = SequenceSizes()


@dataclass(frozen=True, slots=True)
class ComponentSizes:
    """Bytes of a network's weights, by sequences of groups; ``ungrouped`` ones are always on the device. From
    disk, layers that project ``reference`` features and ``audio`` are read alone, and the audio projection's
    ``kernel`` a ``piece`` at a time."""

    ungrouped: int
    blocks: SequenceSizes
    modulations: SequenceSizes = EMPTY
    projections: SequenceSizes = EMPTY
    once: SequenceSizes = EMPTY
    reference: SequenceSizes = EMPTY
    audio: SequenceSizes = EMPTY
    kernel: int = 0
    piece: int = 0

    @property
    def total(self) -> int:
        sequences = self.blocks, self.modulations, self.projections, self.once
        return self.ungrouped + sum(sequence.total for sequence in sequences)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Bytes of a model's weights in a precision, and the configurations that they follow from. ``stored``:
    bytes in a component's file per byte in memory."""

    config: Hallo3Config
    text: Mapping[str, Any]
    speech: Mapping[str, Any]
    transformer: ComponentSizes
    reference: ComponentSizes
    text_encoder: ComponentSizes
    vae: int
    speech_encoder: int
    stored: Mapping[str, float] = field(default_factory=dict[str, float])


def measure_sizes(
    config: Hallo3Config, precision: Precision, text: Mapping[str, Any], speech: Mapping[str, Any]
) -> ModelSizes:
    """Raises ``CheckpointError`` for configurations of which no network can be built."""

    def count(tensors: Any) -> int:
        return sum(tensor.numel() for tensor in tensors)

    def size(name: str, tensor: Tensor) -> int:
        return tensor.numel() * (1 if precision.is_fp8(name) else precision.compute.itemsize)

    def sequence_sizes(network: nn.Module, groups: Sequence[WeightGroup], larger: int = 1) -> SequenceSizes:
        sizes = [larger * sum(size(*each) for each in group_tensors(network, group)) for group in groups]
        pair = max(map(sum, pairwise(sizes)), default=sizes[0])
        return SequenceSizes(len(sizes), max(sizes), sum(sizes), pair)

    def trunk_sizes(name: str) -> ComponentSizes:
        network = cast(Trunk, build_on_meta(name, to_dict(config)))
        sequences, on_disk = split_groups(network), split_for_disk(network)
        ungrouped = sum(size(*each) for each in ungrouped_tensors(network, sequences))
        if name == "reference":  # always from disk; the last layers are not needed
            blocks, modulations = (sequence_sizes(network, groups) for groups in on_disk[:2])
            return ComponentSizes(ungrouped, blocks, modulations)
        blocks, modulations, projections, once = (sequence_sizes(network, groups) for groups in sequences)
        audio, reference = (sequence_sizes(network, on_disk[place]) for place in (3, -1))
        kernel = network.get_parameter(f"{AUDIO_KERNEL}.weight")
        row = kernel[0].numel() * precision.compute.itemsize
        rows = len(kernel), min(KERNEL_ROWS, len(kernel))
        kernel, piece = (count * row for count in rows)
        return ComponentSizes(
            ungrouped=ungrouped,
            blocks=blocks,
            modulations=modulations,
            projections=projections,
            once=once,
            reference=reference,
            audio=audio,
            kernel=kernel,
            piece=piece,
        )

    t5 = build_on_meta("text_encoder", text)
    larger = precision.of_text.compute.itemsize // precision.compute.itemsize
    halves, embedding = (sequence_sizes(t5, groups, larger) for groups in split_text_groups(t5))
    vae, wav2vec2 = build_on_meta("vae", to_dict(config.vae)), build_on_meta("speech_encoder", speech)
    return ModelSizes(
        config=config,
        text=text,
        speech=speech,
        transformer=trunk_sizes("transformer"),
        reference=trunk_sizes("reference"),
        text_encoder=ComponentSizes(0, halves, once=embedding),
        vae=count((*vae.parameters(), *vae.buffers())) * precision.compute.itemsize,
        speech_encoder=count((*wav2vec2.parameters(), *wav2vec2.buffers())) * torch.float32.itemsize,
    )


def measure_folder(files: ModelFolder, config: Hallo3Config, precision: Precision) -> ModelSizes:
    """Sizes of a model folder's networks; the released model's T5 and wav2vec2 where they are missing. Raises
    ``CheckpointError``."""
    configs = {"text_encoder": TEXT_ENCODERS["hallo3"], "speech_encoder": SPEECH_ENCODERS["hallo3"]}
    stored: dict[str, float] = {}
    for part in ("transformer", "reference", "vae", *configs):
        with suppress(CheckpointError):
            component = find_component(files.open(part), part)
            if part in configs:
                configs[part] = get_config(component)
            largest = max(component.assemblies, key=lambda name: math.prod(component.assemblies[name].shape))
            computed = precision.of_text if part == "text_encoder" else precision
            stored[part] = component.dtype(largest).itemsize / computed.compute.itemsize
    sizes = measure_sizes(config, precision, configs["text_encoder"], configs["speech_encoder"])
    return replace(sizes, stored=stored)
