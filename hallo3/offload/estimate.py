"""The stages of a run, and what each has on the device under an arrangement: weights, conditions,
activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoints.component_config import build_on_meta
from ..config import Hallo3Config, to_dict
from ..model.transformer import Trunk
from ..quantization.precision import Precision
from ..vae.autoencoder import WHOLE
from ..vae.decode_memory import decode_bytes
from ..vae.tiling import DecodePlan
from . import activations as of
from .streaming import WeightGroup, others_of, tensors_of
from .weight_store import split_groups, split_text_groups


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
class ComponentSizes:
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
class ModelSizes:
    """A model's networks in a precision: bytes, and the configuration they follow from."""

    config: Hallo3Config
    text: Mapping[str, Any]
    number: int
    """Bytes of a number that flows."""
    transformer: ComponentSizes
    reference: ComponentSizes
    text_encoder: ComponentSizes
    vae: int
    speech_encoder: int


def measure_sizes(
    config: Hallo3Config, precision: Precision, text: Mapping[str, Any], speech: Mapping[str, Any]
) -> ModelSizes:
    """The sizes of a model with these encoders of text and speech, in transformers' own words. Raises
    ``CheckpointError`` for sizes of which no network can be built."""
    values, number = to_dict(config), precision.compute.itemsize
    return ModelSizes(
        config=config,
        text=text,
        number=number,
        transformer=_trunk(build_on_meta("transformer", values), precision),
        reference=_trunk(build_on_meta("reference", values), precision),
        text_encoder=_reader(text, precision),
        vae=_numbers(build_on_meta("vae", to_dict(config.vae))) * number,
        speech_encoder=_numbers(build_on_meta("speech_encoder", speech)) * torch.float32.itemsize,
    )


def in_precision(sizes: ModelSizes, precision: Precision) -> ModelSizes:
    """The same model's in another precision."""
    values, number = to_dict(sizes.config), precision.compute.itemsize
    return replace(
        sizes,
        number=number,
        transformer=_trunk(build_on_meta("transformer", values), precision),
        reference=_trunk(build_on_meta("reference", values), precision),
        text_encoder=_reader(sizes.text, precision),
        vae=sizes.vae // sizes.number * number,
    )


def _reader(text: Mapping[str, Any], precision: Precision) -> ComponentSizes:
    t5 = build_on_meta("text_encoder", text)
    halves, embedding = split_text_groups(t5)
    return ComponentSizes(
        blocks=_row(t5, halves, precision), once=_row(t5, [*embedding], precision), others=0
    )


def _trunk(network: nn.Module, precision: Precision) -> ComponentSizes:
    trunk = cast(Trunk, network)
    rows = split_groups(trunk)
    others = sum(_held(name, tensor, precision) for name, tensor in others_of(trunk, rows))
    found = [_row(trunk, row, precision) for row in rows]
    heard = found[2:] or [NO_ROW, NO_ROW]
    return ComponentSizes(
        blocks=found[0], modulated=found[1], projected=heard[0], once=heard[1], others=others
    )


def _row(network: nn.Module, row: Sequence[WeightGroup], precision: Precision) -> Row:
    sizes = [
        sum(_held(name, tensor, precision) for name, tensor in tensors_of(network, item)) for item in row
    ]
    two = max(map(sum, pairwise(sizes)), default=sizes[0])
    return Row(len(sizes), max(sizes), sum(sizes), two)


def _held(name: str, tensor: Tensor, precision: Precision) -> int:
    return tensor.numel() * (1 if precision.is_fp8(name) else precision.compute.itemsize)


def _numbers(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))


MEMORY, DISK, DEVICE = "memory", "disk", "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequirements:
    """What a run asks for: ``steps``, and ``branches`` evaluations in each. ``fused`` kernels hold less than
    torch's own, which are planned for where nobody says."""

    precision: Precision
    steps: int
    branches: int
    fused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadConfig:
    """Where weights and conditions are. ``home``: where the transformer's weights are while they are not
    used; on the "device", all of it and the VAE stay there. ``staying`` blocks stay on the device while a
    segment is sampled, the others come from home. ``passes`` and the two ``on_access`` are the settings' of
    the same names."""

    home: str
    staying: int
    passes: str
    on_access: bool = False
    steps_on_access: bool = False
    decode: DecodePlan = WHOLE

    @property
    def short(self) -> str:
        """In a few words; runs of other words take another time."""
        access = " on access" * self.on_access + " steps on access" * self.steps_on_access
        decode = f" {self.decode.strips} strips {self.decode.caches}" if self.decode != WHOLE else ""
        return f"{self.home} {self.staying} {self.passes}{access}{decode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """A stage's bytes on the device at its peak. ``streamed`` bytes come to it from ``origin`` while it is
    done once (a step of sampling)."""

    name: str
    weights: int
    conditions: int
    activations: int
    streamed: int = 0
    origin: str = ""
    says: str

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.weights + self.conditions + self.activations


def stages_of(sizes: ModelSizes, demand: MemoryRequirements, plan: OffloadConfig) -> Iterator[StagePlan]:
    """Every stage, in the order of a run."""
    whole = sizes.transformer.total + sizes.vae if plan.home == DEVICE else 0
    stays = " beside all that stays" if whole else ""
    config, number, fused = sizes.config, sizes.number, demand.fused
    halves, embedding = sizes.text_encoder.blocks, sizes.text_encoder.once
    vae = whole or sizes.vae
    yield StagePlan(
        name="speech",
        weights=sizes.speech_encoder,
        conditions=0,
        activations=of.listening(),
        says="wav2vec2 in float32",
    )
    yield StagePlan(
        name="prompt",
        weights=whole + max(halves.two, embedding.total),
        conditions=0,
        activations=of.prompting(sizes.text, config, number),
        streamed=halves.total + embedding.total,
        origin=DISK,
        says=f"T5 by half blocks{stays}",
    )
    yield StagePlan(
        name="portrait",
        weights=vae,
        conditions=0,
        activations=of.encoding(config, 1, number),
        says=f"the VAE{stays}" if not whole else "all that stays",
    )
    reference = sizes.reference
    yield StagePlan(
        name="reference",
        weights=whole + reference.others + reference.blocks.two + reference.modulated.two,
        conditions=of.features(config, number),
        activations=of.reading(config, demand.precision, fused=fused),
        streamed=reference.blocks.total + reference.modulated.total,
        origin=DISK,
        says=f"the reference network by blocks{stays}",
    )
    yield from _segment_stages(sizes, demand, plan, vae)


def _segment_stages(
    sizes: ModelSizes, demand: MemoryRequirements, plan: OffloadConfig, vae: int
) -> Iterator[StagePlan]:
    config, number, parts = sizes.config, sizes.number, sizes.transformer
    run, heard = run_conditions(sizes, demand, plan), 0 if plan.on_access else of.audio_kv(config, number)
    origin = "" if plan.home == DEVICE else plan.home
    streams = bool(origin)
    once = parts.once.total + (0 if plan.on_access else parts.projected.total)
    every = parts.blocks.total + parts.modulated.total + once + parts.projected.total
    yield StagePlan(
        name="prepare",
        weights=vae if not streams else parts.others + _preparing(parts, plan),
        conditions=run,
        activations=_preparation(sizes, demand),
        streamed=every if streams else 0,
        origin=origin,
        says="the transformer by its items" if streams else "all that stays",
    )
    yield StagePlan(
        name="encode",
        weights=vae,
        conditions=run,
        activations=of.encoding(config, 1 + config.segment.motion_frames, number),
        says="the VAE" if streams else "all that stays",
    )
    yield StagePlan(
        name="listen",
        weights=vae if not streams else parts.others + max(parts.once.total, parts.projected.two),
        conditions=run + heard,
        activations=of.hearing(config, number)
        + of.latents(config) * of.FLOAT
        + of.projecting(config, demand.precision, config.audio.token_dim),
        streamed=once if streams else 0,
        origin=origin,
        says="the audio projection" if streams else "all that stays",
    )
    yield StagePlan(
        name="sample",
        weights=vae if not streams else parts.others + _stepping(parts, plan),
        conditions=run + heard,
        activations=_sampling(sizes, demand, plan),
        streamed=streamed_a_step(parts, plan) if streams else 0,
        origin=origin,
        says=_sampled(parts, plan, demand.branches),
    )
    yield StagePlan(
        name="decode",
        weights=vae,
        conditions=run + of.latents(config) * of.FLOAT,
        activations=decode_bytes(config.vae, config.segment.shape.latent, plan.decode, number),
        says=f"the VAE, {_decoded(plan.decode)}",
    )


def run_conditions(sizes: ModelSizes, demand: MemoryRequirements, plan: OffloadConfig) -> int:
    """What is prepared once and held for the whole run."""
    config, number = sizes.config, sizes.number
    steps = 0 if plan.steps_on_access else of.tables(config, number, demand.steps)
    prepared = (
        of.features(config, number)
        if plan.on_access
        else of.reference_kv(config, number) + of.audio_kv(config, number)
    )
    return prepared + of.folded(config, number) + of.around(config, number) + steps


def passing(parts: ComponentSizes, plan: OffloadConfig) -> int:
    """Blocks that come anew every step."""
    return max(0, parts.blocks.count - plan.staying)


def streamed_a_step(parts: ComponentSizes, plan: OffloadConfig) -> int:
    """Bytes that come to the device in every step."""
    times = 2 if plan.passes == "sequential" else 1
    found = passing(parts, plan) * parts.blocks.largest
    found += parts.projected.total if plan.on_access else 0
    found += parts.modulated.total if plan.steps_on_access else 0
    return found * times


def _stepping(parts: ComponentSizes, plan: OffloadConfig) -> int:
    """Blocks that stay, two that pass, and two items of the rows that are read on access."""
    found = (parts.blocks.count - passing(parts, plan) + min(2, passing(parts, plan))) * parts.blocks.largest
    found += parts.projected.two if plan.on_access else 0
    return found + (parts.modulated.two if plan.steps_on_access else 0)


def _preparing(parts: ComponentSizes, plan: OffloadConfig) -> int:
    """First blocks, for the reference features; then the audio projection, alone; then modulations."""
    found = parts.once.total, _stepping(parts, plan) + (0 if plan.on_access else parts.projected.two)
    return max(*found, parts.projected.two + parts.modulated.two)


def _preparation(sizes: ModelSizes, demand: MemoryRequirements) -> int:
    """The audio of silence is projected, and the reference features of one block after the other."""
    config, number = sizes.config, sizes.number
    held = of.hearing(config, number) + 2 * of.reference_kv(config, number) // config.trunk.layers
    return held + of.projecting(config, demand.precision, config.trunk.width)


def _sampling(sizes: ModelSizes, demand: MemoryRequirements, plan: OffloadConfig) -> int:
    config, number = sizes.config, sizes.number
    found = of.sampling(
        config, demand.precision, passes=plan.passes, branches=demand.branches, fused=demand.fused
    )
    if plan.on_access:
        found += 3 * of.reference_kv(config, number) // (2 * config.trunk.layers)
        found += 2 * of.audio_kv(config, number) // config.trunk.layers
    return found


def _sampled(parts: ComponentSizes, plan: OffloadConfig, branches: int) -> str:
    passes = f"branches {plan.passes}" if branches == 2 else "one branch"
    if plan.home == DEVICE:
        return f"all of it, {passes}"
    count, pass_by = parts.blocks.count, passing(parts, plan)
    blocks = f"{count - pass_by} of {count} blocks" if pass_by else f"all {count} blocks"
    access = ", conditions on access" if plan.on_access else ""
    return f"{blocks}, {passes}{access}"


def _decoded(plan: DecodePlan) -> str:
    strips = "whole height" if plan.strips == 1 else f"{plan.strips} strips"
    return f"{strips}, caches on the {plan.caches}"
