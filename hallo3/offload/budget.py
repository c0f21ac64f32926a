"""How a whole run fits under a ceiling of the device's memory, decided before anything is loaded.

A plan is arithmetic: it needs no GPU. Of the ceiling, ``RESERVE`` bytes and ``SPARE`` of it are left alone.
Arrangements are tried from the fastest on, and the first that fits is taken:

1. transformer and VAE stay on the device, a decode's caches too; branches batched, then one after the other;
2. all blocks stay while a segment is sampled, the rest comes when it is needed; batched, then one after the
   other;
3. as many blocks stay as fit, the others pass by in every step, which both branches make abreast;
4. the same with what a block hears projected when it is read; then with what the timesteps do to it too.

Decodes are tried with their caches on the device and ever more strips, then with caches in the host's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from ..errors import InputError
from ..quantization.precision import PRECISIONS
from ..vae.tiling import DecodePlan
from .estimate import (
    DEVICE,
    DISK,
    MEMORY,
    MemoryRequirements,
    ModelSizes,
    OffloadConfig,
    StagePlan,
    in_precision,
    stages_of,
)

GB = 1_000_000_000
CONTEXT = 500_000_000
"""Bytes that CUDA itself takes of a device, outside of what torch hands out."""
WORKSPACE = 200_000_000
"""Bytes that libraries take for their own scratch: matrix products, convolutions."""
RESERVE = CONTEXT + WORKSPACE
SPARE = 0.05
"""Share of the ceiling that is lost between tensors."""
PROGRAM = 3 * GB
"""Bytes of the host's memory for everything but the transformer's weights: Python, torch, frames, a decode's
caches."""
LOADED = 0.85
"""Share of the host's memory that a run may fill."""
DECODES = tuple(DecodePlan(strips, caches) for caches in ("device", "host") for strips in (1, 2, 4, 8, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """An arrangement that fits under ``ceiling`` bytes, and its stages."""

    ceiling: int
    arrangement: OffloadConfig
    stages: tuple[StagePlan, ...]
    host: int
    """Bytes of weights that are held in the host's memory."""

    @property
    def peak(self) -> int:
        """Bytes of the stage that needs most, without the reserve."""
        return max(stage.total for stage in self.stages)

    @property
    def promised(self) -> int:
        """Bytes that torch may hand out if the ceiling is to be kept."""
        return self.ceiling - CONTEXT

    def as_dict(self) -> dict[str, object]:
        """The plan for programs."""
        stages = [asdict(stage) | {"total": stage.total} for stage in self.stages]
        return {
            "ceiling": self.ceiling,
            "host": self.host,
            "reserve": self.ceiling - usable(self.ceiling),
            "peak": self.peak,
            "arrangement": asdict(self.arrangement),
            "stages": stages,
        }

    def text(self) -> str:
        """For people, a line a stage."""
        usable_gb = usable(self.ceiling) / GB
        lines = [
            f"of the GPU's memory at most {self.ceiling / GB:.1f} GB; {usable_gb:.1f} GB of them are planned "
            "with, the rest is reserve",
            "stage      peak GB  weights  kept  at work  on the device",
        ]
        for stage in self.stages:
            streamed = (
                f"; {stage.streamed / GB:.1f} GB come from {_ORIGINS[stage.origin]}" if stage.streamed else ""
            )
            each = " in every step" if streamed and stage.name == "sample" else ""
            bytes_of = (stage.weights, stage.conditions, stage.activations)
            weights, kept, at_work = (f"{count / GB:.2f}" for count in bytes_of)
            said = f"{stage.says}{streamed}{each}"
            lines.append(
                f"{stage.name:<10} {stage.total / GB:7.2f} {weights:>8} {kept:>5} {at_work:>8}  {said}"
            )
        return "\n".join(lines)

    def line(self) -> str:
        """The plan in a few words."""
        sample, decode = self.stage("sample"), self.stage("decode")
        passing = (
            f", {sample.streamed / GB:.1f} GB a step from {_ORIGINS[sample.origin]}"
            if sample.streamed
            else ""
        )
        return f"{sample.says}{passing}; decode: {decode.says}; peak {self.peak / GB:.1f} GB"

    def stage(self, name: str) -> StagePlan:
        """The stage of a name."""
        return next(stage for stage in self.stages if stage.name == name)


_ORIGINS = {MEMORY: "memory", DISK: "disk"}


def usable(ceiling: int) -> int:
    """Bytes of a ceiling that a plan may fill."""
    return max(0, round(ceiling * (1 - SPARE)) - RESERVE)


def plan_memory(sizes: ModelSizes, demand: MemoryRequirements, ceiling: int, ram: int) -> MemoryPlan:
    """The fastest arrangement of a run that fits under ``ceiling`` bytes of the device, with ``ram`` bytes of
    the host's own memory. Raises ``InputError`` when none does."""
    room, parts = usable(ceiling), sizes.transformer
    home = MEMORY if parts.total + PROGRAM <= LOADED * ram else DISK
    for arrangement in _arrangements(sizes, demand, home, room):
        for decode in DECODES:
            if arrangement.home == DEVICE and decode.caches != "device":
                break  # what is gained by staying would be lost in decoding
            plan = replace(arrangement, decode=decode)
            stages = tuple(stages_of(sizes, demand, plan))
            if max(stage.total for stage in stages) <= room:
                host = parts.total if plan.home == MEMORY else parts.once.total
                return MemoryPlan(ceiling=ceiling, arrangement=plan, stages=stages, host=host)
    least, where = least_needed(sizes, demand)
    smaller = _that_fit(sizes, demand, ceiling)
    raise InputError(
        "The run does not fit into so much of the GPU's memory.",
        found=f"{ceiling / GB:.1f} GB",
        expected=f"{least / GB:.1f} GB or more in {demand.precision.name}: so much takes the stage {where}",
        fix="allow more" + (f", or use {' or '.join(smaller)}" if smaller else ""),
    )


def least_needed(sizes: ModelSizes, demand: MemoryRequirements) -> tuple[int, str]:
    """The smallest ceiling under which a run fits, and the stage that decides it."""
    smallest = OffloadConfig(
        home=DISK,
        staying=0,
        passes="layer-major",
        on_access=True,
        steps_on_access=True,
        decode=DECODES[-1],
    )
    stages = list(stages_of(sizes, demand, smallest))
    most = max(stages, key=lambda stage: stage.total)
    return round((most.total + RESERVE) / (1 - SPARE)) + 1, most.name


def _that_fit(sizes: ModelSizes, demand: MemoryRequirements, ceiling: int) -> list[str]:
    """Precisions of smaller weights in which the run fits, by name."""
    now = demand.precision
    found = ["bf16"] if now.compute.itemsize > PRECISIONS["bf16"].compute.itemsize else []
    found += [] if now.fp8_weights else ["fp8"]
    each = {name: PRECISIONS[name] for name in found}
    return [
        name
        for name, other in each.items()
        if least_needed(in_precision(sizes, other), replace(demand, precision=other))[0] <= ceiling
    ]


def _arrangements(
    sizes: ModelSizes, demand: MemoryRequirements, home: str, room: int
) -> Iterator[OffloadConfig]:
    count = sizes.transformer.blocks.count
    passes = ("batched", "sequential") if demand.branches == 2 else ("batched",)
    for where in (DEVICE, home):
        for each in passes:
            yield OffloadConfig(home=where, staying=count, passes=each)
    for access in ((False, False), (True, False), (True, True)):
        none = OffloadConfig(
            home=home, staying=0, passes="layer-major", on_access=access[0], steps_on_access=access[1]
        )
        sampled = next(stage for stage in stages_of(sizes, demand, none) if stage.name == "sample")
        fitting = (room - sampled.total) // sizes.transformer.blocks.largest
        for staying in range(min(count - 1, fitting), -1, -1):  # another stage may want some of the room
            yield replace(none, staying=staying)
