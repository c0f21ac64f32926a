"""How a run fits a limit of GPU memory, or on a CPU the RAM: arithmetic, done before anything is loaded,
without a GPU.

``RESERVE_BYTES`` and ``FRAGMENTATION`` of the limit stay free. Configurations are tried from the fastest to
the smallest, and the first that fits is used:

1. transformer and VAE resident, caches of a decode on the device; branches batched, then sequential;
2. all blocks resident while a segment is sampled, other weights on demand; batched, then sequential;
3. as many blocks resident as fit, the others streamed in every step, which evaluates both branches layer by
   layer;
4. the same with audio conditions projected on access; then with the modulations of the steps on access too.

Decodes are tried with caches on the device and a growing number of strips, then with caches in RAM. On a CPU
there is one memory: weights are in RAM or on disk, and blocks that fit stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from ..errors import InputError
from ..quantization import PRECISIONS, Precision
from ..segments import base_ram
from ..units import GB, format_bytes, format_duration
from ..vae.causal_conv import DecodePlan
from ..vae.decode_memory import decode_bytes
from .estimate import (
    DEVICE,
    DISK,
    RAM,
    MemoryRequirements,
    OffloadConfig,
    StagePlan,
    TensorSizes,
    plan_stages,
)
from .sizes import ModelSizes, measure_sizes

CONTEXT_BYTES = 500_000_000  # what CUDA itself takes of a device, outside of PyTorch's allocator
RESERVE_BYTES = CONTEXT_BYTES + 650_000_000  # with workspaces of matrix products, and what is lost to the
FRAGMENTATION = 0.02  # allocator, as this share of the limit is (docs/measurements/fits.json)
CLOSE_PROGRAMS = "close other programs, or try --trial"
CUDA_PROGRAM_BYTES = 3_000_000_000  # of RAM, for CUDA's libraries, context and pinned chunks
RAM_RESERVE = 0.05  # share that stays free
HEAP = 1.04  # of RAM for what a stage holds: small blocks that the heap keeps
CPU_DECODE_PLANS = tuple(DecodePlan(strips, "device") for strips in (1, 2, 4, 8, 16))
DECODE_PLANS = tuple(
    DecodePlan(strips, caches) for caches in ("device", "host") for strips in (1, 2, 4, 8, 16)
)
COMPONENT_OF = {
    "prompt": "text_encoder",
    "reference": "reference",
    "prepare": "transformer",
    "listen": "transformer",
}
"""What a stage before the first step reads, if it streams from disk."""
SMALLEST = OffloadConfig(
    home=DISK,
    resident=0,
    passes="layer-major",
    on_access=True,
    steps_on_access=True,
    decode=DECODE_PLANS[-1],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A configuration that fits ``limit`` bytes of a GPU, or of RAM ``on_cpu``, and its stages. The run takes
    ``ram`` bytes of RAM; it reads ``read`` bytes of weights before the first step, and ``read_per_step``. A
    ``manual`` plan is what options ask for."""

    limit: int
    offload: OffloadConfig
    stages: tuple[StagePlan, ...]
    ram: int
    read: int
    read_per_step: int
    on_cpu: bool = False
    manual: bool = False

    @property
    def peak(self) -> int:
        """Bytes of the largest stage, without the reserve."""
        return max(stage.total for stage in self.stages)

    @property
    def torch_limit(self) -> int:
        """Bytes that PyTorch may allocate under the limit."""
        return self.limit - CONTEXT_BYTES

    def as_dict(self) -> dict[str, Any]:
        return {
            "ceiling": self.limit,
            "reserve": 0 if self.on_cpu else self.limit - usable_bytes(self.limit),
            "ram": self.ram,
            "read": self.read,
            "read_per_step": self.read_per_step,
            "peak": self.peak,
            "arrangement": self.offload.as_dict(),
            "stages": [stage.as_dict() for stage in self.stages],
        }

    def text(self) -> str:
        if self.on_cpu:
            title, column = f"RAM for this run {format_bytes(self.limit)}", "where"
        else:
            usable, column = format_bytes(usable_bytes(self.limit)), "on the GPU"
            title = (
                f"GPU memory limit {format_bytes(self.limit)}: {usable} for the run, the rest is a reserve"
            )
        lines = [title, f"stage      peak GB  weights  conditions  activations  {column}"]
        for stage in self.stages:
            weights, conditions, activations = (
                f"{count / GB:.2f}" for count in (stage.weights, stage.conditions, stage.activations)
            )
            lines.append(
                f"{stage.name:<10} {stage.total / GB:7.2f} {weights:>8} {conditions:>11} {activations:>12}  "
                f"{stage.text}"
            )
        return "\n".join(lines)

    def reads(self, rate: float) -> str:
        """What is read from disk and how long that takes at ``rate`` bytes per second."""
        first, step = (
            f"{format_bytes(count)} ({format_duration(count / rate)})"
            for count in (self.read, self.read_per_step)
        )
        later = f", {step} per step" if self.read_per_step else ""
        return f"reads     {first} of weights before the first step{later}, at {format_bytes(round(rate))}/s"

    def line(self) -> str:
        sample, decode = self.stage("sample"), self.stage("decode")
        return f"{sample.text}; decode: {decode.description}; peak {format_bytes(self.peak)}"

    def stage(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)


def usable_bytes(limit: int) -> int:
    """Bytes of a limit that a plan may use."""
    return max(0, round(limit * (1 - FRAGMENTATION)) - RESERVE_BYTES)


NO_CAPS: Mapping[str, int] = {}


def plan_memory(
    sizes: ModelSizes,
    requirements: MemoryRequirements,
    limit: int,
    ram: int,
    caps: Mapping[str, int] = NO_CAPS,
) -> MemoryPlan:
    """The fastest configuration for bytes of GPU memory and RAM; weights are in RAM if they fit. ``caps`` are
    what stages may take. Raises ``InputError`` if nothing fits."""
    usable, needed = usable_bytes(limit), 0
    without_host = tuple(plan for plan in DECODE_PLANS if plan.caches == "device")
    for home, decodes in product((RAM, DISK), (DECODE_PLANS, without_host)):
        found = _fit(sizes, requirements, home, usable, decodes, caps)
        if found is not None:
            needed = _gpu_run_ram(sizes, requirements, found[0])
            if needed <= ram * (1 - RAM_RESERVE):
                return _plan(sizes, found, limit, needed)
    if needed:
        raise _ram_error(ram, needed, requirements)
    least, stage = min_limit(sizes, requirements)
    smaller = [
        name
        for name in smaller_precisions(requirements.precision)
        if min_limit(*_in_precision(sizes, requirements, name))[0] <= limit
    ]
    raise InputError(
        "The run does not fit the GPU memory limit.",
        found=format_bytes(limit),
        expected=f"at least {format_bytes(least)} in {requirements.precision.name}, for the stage {stage}",
        fix="allow more" + f", or use {' or '.join(smaller)}" * bool(smaller),
    )


def plan_cpu_memory(
    sizes: ModelSizes, requirements: MemoryRequirements, ram: int, caps: Mapping[str, int] = NO_CAPS
) -> MemoryPlan:
    """The same for a CPU: all weights in RAM, or those that fit. Raises ``InputError`` if nothing fits."""
    requirements, outside = replace(requirements, on_cpu=True), _cpu_base_ram(sizes, requirements)
    usable = round((ram * (1 - RAM_RESERVE) - outside) / HEAP)
    plans = [
        _plan(sizes, found, ram, outside + _peak_on_cpu(found[1]), on_cpu=True)
        for keep in ({"keep": True}, {"keep": True, "keep_audio": True})
        if (found := _fit(sizes, requirements, DISK, usable, CPU_DECODE_PLANS, caps, **keep)) is not None
    ]
    if plans:  # what reads least in the first segment
        return min(plans, key=lambda plan: plan.read + requirements.steps * plan.read_per_step)
    smaller = [
        name
        for name in smaller_precisions(requirements.precision)
        if _min_cpu_ram(*_in_precision(sizes, requirements, name)) <= ram
    ]
    fix = f"{CLOSE_PROGRAMS}, or use {' or '.join(smaller)}" if smaller else CLOSE_PROGRAMS
    raise _ram_error(ram, _min_cpu_ram(sizes, requirements), requirements, fix)


def _min_cpu_ram(sizes: ModelSizes, requirements: MemoryRequirements) -> int:
    smallest = replace(SMALLEST, decode=CPU_DECODE_PLANS[-1])
    peak = _peak_on_cpu(plan_stages(sizes, requirements, smallest))
    return round((peak + _cpu_base_ram(sizes, requirements)) / (1 - RAM_RESERVE)) + 1


def min_limit(sizes: ModelSizes, requirements: MemoryRequirements) -> tuple[int, str]:
    """The smallest limit that a run fits, and the stage that decides it."""
    largest = max(plan_stages(sizes, requirements, SMALLEST), key=lambda stage: stage.needed)
    return round((largest.needed + RESERVE_BYTES) / (1 - FRAGMENTATION)) + 1, largest.name


def _fit(
    sizes: ModelSizes,
    requirements: MemoryRequirements,
    home: str,
    usable: int,
    decodes: Sequence[DecodePlan],
    caps: Mapping[str, int],
    **keep: bool,
) -> tuple[OffloadConfig, tuple[StagePlan, ...]] | None:
    """The fastest configuration whose stages fit, and them."""
    for config in _configs(sizes, requirements, home, usable):
        for decode in decodes:
            if config.home == DEVICE and decode.caches != "device":
                break  # decoding would lose what resident weights gain
            offload = replace(config, decode=decode, **({} if config.home == DEVICE else keep))
            stages = plan_stages(sizes, requirements, offload)
            if all(s.needed <= usable and s.total <= caps.get(s.name, usable) for s in stages):
                return offload, stages
    return None


def shrink_plan(
    plan: MemoryPlan,
    sizes: ModelSizes,
    requirements: MemoryRequirements,
    share: float,
    ram: int,
    stage: str,
    caps: Mapping[str, int],
) -> MemoryPlan | None:
    """The plan after ``plan``, under which memory ran out in a stage: for this share of its limit and of what
    the stage took; if that stage cannot be smaller, for this share of what the run took, or as few bytes as
    it needs. Stages keep their ``caps`` if they can. None if nothing smaller exists."""
    if plan.on_cpu:
        least, taken = _min_cpu_ram(sizes, requirements), plan.ram / (1 - RAM_RESERVE)
        make = partial(plan_cpu_memory, sizes, requirements)
    else:
        least = min_limit(sizes, requirements)[0]
        taken = (plan.peak + RESERVE_BYTES) / (1 - FRAGMENTATION)
        make = partial(plan_memory, sizes, requirements, ram=ram)
    smaller = {each.name: round(share * each.total) for each in plan.stages if each.name == stage}
    whole = min(plan.limit, taken)
    for size, most in (plan.limit, {**caps, **smaller}), (whole, caps), (whole, NO_CAPS):
        with suppress(InputError):
            found = make(max(round(share * size), least), caps=most)
            if found.offload != plan.offload:
                return found
    return None


def plan_manual(
    sizes: ModelSizes,
    requirements: MemoryRequirements,
    offload: OffloadConfig,
    ram: int,
    *,
    limit: int,
    on_cpu: bool,
) -> MemoryPlan:
    """What a configuration takes that was chosen by hand. Raises ``InputError`` if RAM does not suffice."""
    found = offload, plan_stages(sizes, replace(requirements, on_cpu=on_cpu), offload)
    if on_cpu:
        needed = _cpu_base_ram(sizes, requirements) + _peak_on_cpu(found[1])
    else:
        needed = _gpu_run_ram(sizes, requirements, found[0])
    if needed > ram * (1 - RAM_RESERVE):
        raise _ram_error(
            ram, needed, requirements, "remove --offload and --low-memory: the run is planned then"
        )
    return replace(_plan(sizes, found, limit, needed, on_cpu=on_cpu), manual=True)


def _plan(
    sizes: ModelSizes,
    found: tuple[OffloadConfig, tuple[StagePlan, ...]],
    limit: int,
    ram: int,
    *,
    on_cpu: bool = False,
) -> MemoryPlan:
    offload, stages = found
    read = {"speech_encoder": sizes.speech_encoder, "vae": sizes.vae}
    read["transformer"] = 0 if offload.home == DISK else sizes.transformer.total
    for stage in stages:
        if stage.name in COMPONENT_OF and stage.origin == DISK:
            component = COMPONENT_OF[stage.name]
            read[component] = read.get(component, 0) + stage.streamed
    per_step = sum(stage.streamed for stage in stages if (stage.name, stage.origin) == ("sample", DISK))
    return MemoryPlan(
        limit=limit,
        offload=offload,
        stages=stages,
        ram=ram,
        read=round(sum(size * sizes.stored.get(name, 1) for name, size in read.items())),
        read_per_step=round(per_step * sizes.stored.get("transformer", 1)),
        on_cpu=on_cpu,
    )


def _peak_on_cpu(stages: Sequence[StagePlan]) -> int:
    return round(HEAP * max(stage.total for stage in stages))


def _cpu_base_ram(sizes: ModelSizes, requirements: MemoryRequirements) -> int:
    """Beside a stage: the program, frames, and the identity's reference features."""
    features = TensorSizes(sizes.config, requirements.precision).reference_features
    return base_ram(sizes.config.segment) + features


def _gpu_run_ram(sizes: ModelSizes, requirements: MemoryRequirements, offload: OffloadConfig) -> int:
    """RAM of a run on a GPU: weights at home there, groups on their way, reference features, caches."""
    weights = sizes.transformer.total if offload.home == RAM else 0
    moving = 3 * max(sizes.transformer.blocks.largest, sizes.reference.blocks.largest)
    moving = max(
        moving, sizes.text_encoder.once.total, sizes.transformer.once.total * (offload.home == DEVICE)
    )
    features = TensorSizes(sizes.config, requirements.precision).reference_features
    config, number = sizes.config, requirements.precision.compute.itemsize
    with_caches, without = (
        decode_bytes(config.vae, config.segment.shape.latent, replace(offload.decode, caches=place), number)
        for place in ("device", "host")
    )
    caches = with_caches - without if offload.decode.caches == "host" else 0
    return base_ram(config.segment) + CUDA_PROGRAM_BYTES + weights + sizes.vae + moving + features + caches


def _ram_error(
    ram: int, needed: int, requirements: MemoryRequirements, fix: str = CLOSE_PROGRAMS
) -> InputError:
    return InputError(
        "The run does not fit the memory of this computer.",
        found=f"{format_bytes(ram)} of RAM that other programs leave",
        expected=f"at least {format_bytes(needed)} in {requirements.precision.name}",
        fix=fix,
    )


def smaller_precisions(precision: Precision) -> list[str]:
    return ["bf16"] * (precision.compute.itemsize > 2) + ["fp8"] * (not precision.fp8_weights)


def _in_precision(
    sizes: ModelSizes, requirements: MemoryRequirements, name: str
) -> tuple[ModelSizes, MemoryRequirements]:
    precision = PRECISIONS[name]
    other = measure_sizes(sizes.config, precision, sizes.text, sizes.speech)
    return other, replace(requirements, precision=precision)


def _configs(
    sizes: ModelSizes, requirements: MemoryRequirements, home: str, usable: int
) -> Iterator[OffloadConfig]:
    blocks = sizes.transformer.blocks
    passes_of = ["batched"] * (requirements.branches == 1 or not requirements.on_cpu)
    passes_of += ["sequential"] * (requirements.branches > 1)  # in a CPU's bf16 faster, too
    for place in (DEVICE, home):
        for passes in passes_of:
            yield OffloadConfig(home=place, resident=blocks.count, passes=passes)
    for on_access, steps_on_access in ((False, False), (True, False), (True, True)):
        streamed = OffloadConfig(
            home=home, resident=0, passes="layer-major", on_access=on_access, steps_on_access=steps_on_access
        )
        stages = plan_stages(sizes, requirements, streamed)
        sample = next(stage for stage in stages if stage.name == "sample")
        fitting = min(blocks.count - 1, (usable - sample.total) // blocks.largest)
        for resident in range(fitting, -1, -1):  # another stage may need some of the memory
            yield replace(streamed, resident=resident)
