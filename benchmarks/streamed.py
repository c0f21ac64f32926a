"""Times on a device: a clock, and a step and a decode under limits of its memory, with weights streamed as in
a run.

PyTorch is held to the limit: that emulates how much a smaller GPU holds, not how fast it is.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import Inputs, Place, build_random_vae, fill
from benchmarks.report import CPU
from hallo3.config import SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError, is_out_of_memory
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.kernels.select import choose_kernels
from hallo3.model.layers import Attention
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload import streaming
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import DEVICE, DISK, MemoryRequirements, OffloadConfig
from hallo3.offload.sizes import measure_sizes
from hallo3.offload.system_memory import limit_torch, ram_bytes, total_bytes
from hallo3.offload.weight_store import choose_resident, split_groups
from hallo3.units import GB

Row = dict[str, Any]
"""Figures of one measurement; "failed" is the reason if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Times a function on a device: ``count`` runs after ``warm`` uncounted ones; fewer where they would end
    after ``until`` on the monotonic clock, but one at least."""

    device: torch.device
    count: int = 5
    warm: int = 2
    until: float = math.inf

    def left(self) -> float:
        return self.until - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def measure(self, run: Callable[[], object], flop: float = 0.0) -> Row:
        """Median, least and most seconds of ``run``, and TFLOP/s of ``flop``; on CUDA the peak of allocated
        memory (``peak_gb``), and of what was not allocated before (``at_work_gb``)."""
        try:
            row: Row = self._measured(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row = {"failed": "out of memory"}
        self.tidy()
        if flop and "seconds" in row:
            row["tflops"] = flop / row["seconds"] / 1e12
        return row

    def tidy(self) -> None:
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def _measured(self, run: Callable[[], object]) -> Row:
        for _ in range(self.warm):
            begun = time.monotonic()
            run()
            self.wait()
            if 2 * (time.monotonic() - begun) > self.left():
                break
        before = 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        times: list[float] = []
        for _ in range(self.count):
            start = time.perf_counter()
            result = run()
            self.wait()
            times.append(time.perf_counter() - start)
            del result
            if times[-1] > self.left():
                break
        row: Row = {"seconds": median(times), "least": min(times), "most": max(times), "count": len(times)}
        if self.cuda:
            peak = torch.cuda.max_memory_allocated(self.device)
            row |= {"peak_gb": peak / 1e9, "at_work_gb": (peak - before) / 1e9}
        return row


RESIDENT = "resident"
STEPS = 50
"""Of a run; their conditions are held."""
LINKS = (6, 12, 25)
"""GB/s from RAM to the device, for which seconds of a step are estimated."""


def measure_resident(place: Place, clock: Clock, attention: Attention) -> Row:
    """A step with all weights on the device, which those under limits are compared with."""
    if clock.cuda and place.parameters * place.dtype.itemsize > total_bytes(place.device):
        return {"failed": "not measured: the device has less"}
    offload = OffloadConfig(home=DEVICE, resident=place.config.trunk.layers, passes="layer-major")
    return measure_offload(place, clock, attention, offload, decode=False)


def measure_limit(
    place: Place, clock: Clock, attention: Attention, limit: float, resident: float | None
) -> Row:
    """A step under a limit in GB; ``resident`` is the seconds of one with all weights on the device."""
    try:
        plan = plan_limit(place, limit)
    except InputError as error:
        return {"failed": f"{error.headline} {error.expected}"}
    if plan.offload.home == DISK:
        return {"failed": "not measured: the weights do not fit into RAM"}
    if limit * GB > total_bytes(place.device):
        return {"failed": "not measured: the device has less"}
    limit_torch(plan.torch_limit, place.device)
    try:
        row = {"plan": plan.line()} | measure_offload(place, clock, attention, plan.offload)
    finally:
        clock.tidy()
        limit_torch(total_bytes(place.device), place.device)
    return row | estimate_links(row, resident)


def plan_limit(place: Place, limit: float) -> MemoryPlan:
    """The plan of a run with this many GB. Raises ``InputError`` if they are too few."""
    precision = place.precision
    sizes = measure_sizes(place.config, precision, TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    fused = choose_kernels("auto", place.device, place.dtype).kernels.name == "fused"
    requirements = MemoryRequirements(precision=precision, steps=STEPS, branches=2, fused=fused)
    return plan_memory(sizes, requirements, round(limit * GB), ram_bytes())


def measure_offload(
    place: Place, clock: Clock, attention: Attention, offload: OffloadConfig, *, decode: bool = True
) -> Row:
    """A step and a ``decode``: seconds, GB streamed per step (``streamed_gb``), their share of all blocks
    (``streamed_share``), and the peak that PyTorch reserved (``reserved_gb``)."""
    if clock.cuda:
        torch.cuda.reset_peak_memory_stats(place.device)
    store = CountingStore(_make_streamable(place, attention, offload))
    inputs, resident = Inputs(place, STEPS), offload.home == DEVICE
    inputs.features = [each.cpu() for each in inputs.features]
    residency: AbstractContextManager[Hallo3Transformer] = (
        streaming.ResidentModule if resident else streaming.StreamedModule
    )(lambda: store.module, place.device)
    with torch.inference_mode(), residency as dit:
        if offload.on_access:
            inputs.features = [each.to(place.device) for each in inputs.features]
        prepared = inputs.prepare(dit, on_access=offload.on_access, steps_on_access=offload.steps_on_access)
        predict = GUIDANCE_PASSES[offload.passes](dit, *prepared)
        begun: list[int] = []

        def step() -> Tensor:
            begun.append(store.bytes)
            return predict(inputs.latents, 0)

        row = clock.measure(step)
        counted = row.get("count", 0)
        streamed = (store.bytes - begun[-counted]) / counted if counted else 0.0
        reserved = _reserved(clock)  # before the decode resets the peak
    row |= {"streamed_gb": streamed / GB, "streamed_share": streamed / store.blocks}
    if decode:
        vae = build_random_vae(place, offload.decode)
        decoded = clock.measure(lambda: [part.float().cpu() for part in vae.decode(inputs.latents)])
        row["decode"] = decoded.get("seconds", decoded.get("failed"))
    return row | ({"reserved_gb": max(reserved, _reserved(clock))} if clock.cuda else {})


def _reserved(clock: Clock) -> float:
    return torch.cuda.max_memory_reserved(clock.device) / GB if clock.cuda else 0.0


def estimate_links(row: Row, resident: float | None) -> Row:
    """Slowdown from a step with all weights on the device, and seconds of a step with other links."""
    if resident is None or "seconds" not in row:
        return {}
    links = {f"{rate} GB/s": max(resident, row["streamed_gb"] / rate) for rate in LINKS}
    return {"slowdown": row["seconds"] / resident, "reckoned step by link": links}


def _make_streamable(
    place: Place, attention: Attention, offload: OffloadConfig
) -> streaming.StreamableModule[Hallo3Transformer]:
    """The transformer with random weights in RAM."""
    kernels = choose_kernels("auto", place.device, place.dtype).kernels
    network = fill(Hallo3Transformer(place.config, place.layers(kernels, attention)), place, CPU)
    rows = split_groups(network)
    staying = choose_resident(rows[0], offload.resident)
    return streaming.store_in_memory(network, rows, resident=staying, pinned=place.device.type == "cuda")


class CountingStore:
    """Counts the ``bytes`` that are loaded from a network's store; ``blocks`` are those of all its blocks."""

    def __init__(self, module: streaming.StreamableModule[Any]) -> None:
        self.bytes, self._store = 0, module.store
        self.blocks = sum(_size(module.store(group)) for group in module.sequences[0])
        self.module = module._replace(store=self._load)

    def _load(self, group: streaming.WeightGroup) -> streaming.Weights:
        weights = self._store(group)
        self.bytes += _size(weights)
        return weights


def _size(weights: streaming.Weights) -> int:
    return (
        weights.size
        if isinstance(weights, streaming.PackedTensors)
        else sum(t.nbytes for t in weights.values())
    )
