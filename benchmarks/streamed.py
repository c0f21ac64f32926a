"""A step and a decode under ceilings of the device's memory, with weights that stream as a run's do.

The plan is the one that a run would make (``hallo3/memory/plan.py``). torch is held to the ceiling in this
process: that emulates how much a smaller card holds, never how fast it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import Inputs, Place, filled
from benchmarks.timing import Clock, Row
from hallo3.config import SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.kernels.select import choose_kernels
from hallo3.model.layers import Attention, Layers
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import DEVICE, DISK, MemoryRequirements, OffloadConfig, measure_sizes
from hallo3.offload.streaming import (
    PackedTensors,
    ResidentModule,
    StreamableModule,
    StreamedModule,
    WeightGroup,
    set_tensors,
    store_in_memory,
)
from hallo3.offload.system_memory import limit_torch, ram_bytes, total_bytes
from hallo3.offload.weight_store import choose_resident, split_groups
from hallo3.quantization.precision import PRECISIONS
from hallo3.units import GB
from hallo3.vae.autoencoder import build_vae

STEPS = 50
"""Of a run: what is prepared for them is held."""
LINKS = (6, 12, 25)
"""GB/s from the host to the device for which a step is reckoned."""


def under_ceilings(
    place: Place, clock: Clock, attention: Attention, ceilings: Sequence[float], resident: float | None
) -> dict[str, Row]:
    """A row for every ceiling in GB; ``resident`` is the seconds of a step with all weights on the device."""
    found: dict[str, Row] = {}
    for ceiling in ceilings:
        found[f"{ceiling:g} GB"] = _under(place, clock, attention, ceiling, resident)
        clock.tidy()
    return found


def _under(place: Place, clock: Clock, attention: Attention, ceiling: float, resident: float | None) -> Row:
    try:
        plan = plan_under(place, ceiling)
    except InputError as error:
        return {"failed": f"{error.headline} {error.expected}"}
    if plan.offload.home == DISK:
        return {"failed": "not measured: the weights do not fit into the host's memory"}
    if ceiling * GB > total_bytes(place.device):
        return {"failed": "not measured: the device has less"}
    limit_torch(plan.torch_limit, place.device)
    try:
        row = {"plan": plan.line()} | measured(place, clock, attention, plan.offload)
    finally:
        clock.tidy()
        limit_torch(total_bytes(place.device), place.device)
    return row | reckoned(row, resident)


def plan_under(place: Place, ceiling: float) -> MemoryPlan:
    """What a run would do with so many GB. Raises ``InputError`` where they are too few."""
    precision = PRECISIONS["bf16" if place.dtype is torch.bfloat16 else "fp32"]
    sizes = measure_sizes(place.config, precision, TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    fused = choose_kernels("auto", place.device, place.dtype).kernels.name == "fused"
    demand = MemoryRequirements(precision=precision, steps=STEPS, branches=2, fused=fused)
    return plan_memory(sizes, demand, round(ceiling * GB), ram_bytes())


def measured(place: Place, clock: Clock, attention: Attention, arranged: OffloadConfig) -> Row:
    """A step and a decode in an arrangement: seconds, GB that came to the device in a step (``streamed_gb``),
    how much that is of all blocks' bytes (``streamed_share``), and the most that torch took of the device
    (``reserved_gb``)."""
    if clock.cuda:
        torch.cuda.reset_peak_memory_stats(place.device)
    shelf = Counted(_at_home(place, attention, arranged))
    inputs, settles = Inputs(place, STEPS), arranged.home == DEVICE
    inputs.features = [each.cpu() for each in inputs.features]
    residency: AbstractContextManager[Hallo3Transformer] = (ResidentModule if settles else StreamedModule)(
        lambda: shelf.stored, place.device
    )
    with torch.inference_mode(), residency as dit:
        if arranged.on_access:
            inputs.features = [each.to(place.device) for each in inputs.features]
        prepared = inputs.prepared(
            dit, on_access=arranged.on_access, steps_on_access=arranged.steps_on_access
        )
        predict = GUIDANCE_PASSES[arranged.passes](dit, *prepared)
        begun: list[int] = []

        def step() -> Tensor:
            begun.append(shelf.bytes)
            return predict(inputs.latents, 0)

        row = clock.measure(step)
        streamed = (shelf.bytes - begun[clock.warm]) / clock.count if len(begun) > clock.warm else 0.0
        reserved = _reserved(clock)  # measuring the decode begins anew
    codec = filled(build_vae(place.config.vae, arranged.decode), place)
    decode = clock.measure(lambda: [part.float().cpu() for part in codec.decode(inputs.latents)])  # type: ignore[operator]
    row |= {"streamed_gb": streamed / GB, "streamed_share": streamed / shelf.blocks}
    row["decode"] = decode.get("seconds", decode.get("failed"))
    return row | ({"reserved_gb": max(reserved, _reserved(clock))} if clock.cuda else {})


def _reserved(clock: Clock) -> float:
    return torch.cuda.max_memory_reserved(clock.device) / GB if clock.cuda else 0.0


def reckoned(row: Row, resident: float | None) -> Row:
    """What follows: how much slower than with all on the device, and seconds of a step if the link to the
    device were another."""
    if resident is None or "seconds" not in row:
        return {}
    links = {f"{rate} GB/s": max(resident, row["streamed_gb"] / rate) for rate in LINKS}
    return {"slowdown": row["seconds"] / resident, "reckoned step by link": links}


def _at_home(
    place: Place, attention: Attention, arranged: OffloadConfig
) -> StreamableModule[Hallo3Transformer]:
    """The transformer with random weights in the host's memory, drawn on the device, a tensor at a time."""
    kernels = choose_kernels("auto", place.device, place.dtype).kernels
    layers = Layers(device="meta", dtype=place.dtype, kernels=kernels, attention=attention)
    network = Hallo3Transformer(place.config, layers).eval().requires_grad_(False)
    drawn = torch.Generator(place.device).manual_seed(0)

    def made(name: str, tensor: Tensor) -> Tensor:
        values = torch.empty(tensor.shape, dtype=tensor.dtype, device=place.device)
        values.normal_(0, 0.02, generator=drawn)
        return (values.add_(1) if tensor.ndim == 1 and name.endswith("weight") else values).cpu()

    set_tensors(network, {name: made(name, tensor) for name, tensor in network.state_dict().items()})
    rows = split_groups(network)
    staying = choose_resident(rows[0], arranged.resident)
    return store_in_memory(network, rows, resident=staying, pinned=place.device.type == "cuda")


class Counted:
    """A stored network whose shelf counts the ``bytes`` that are taken from it. ``blocks``: the bytes of all
    its blocks, which are the first row."""

    def __init__(self, stored: StreamableModule[Any]) -> None:
        self.bytes, self._shelf = 0, stored.store
        self.blocks = sum(_size(stored.store(item)) for item in stored.sequences[0])
        self.stored = stored._replace(store=self._taken)

    def _taken(self, item: WeightGroup) -> Mapping[str, Tensor] | PackedTensors:
        kept = self._shelf(item)
        self.bytes += _size(kept)
        return kept


def _size(kept: Mapping[str, Tensor] | PackedTensors) -> int:
    return kept.size if isinstance(kept, PackedTensors) else sum(t.nbytes for t in kept.values())
