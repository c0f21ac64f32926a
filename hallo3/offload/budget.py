"""How a run fits a limit of GPU memory: arithmetic, done before anything is loaded, without a GPU.

``RESERVE_BYTES`` and ``FRAGMENTATION`` of the limit stay free. Configurations are tried from the fastest to
the smallest, and the first that fits is used:

1. transformer and VAE resident, caches of a decode on the device; branches batched, then sequential;
2. all blocks resident while a segment is sampled, other weights on demand; batched, then sequential;
3. as many blocks resident as fit, the others streamed in every step, which evaluates both branches layer by
   layer;
4. the same with audio conditions projected on access; then with the modulations of the steps on access too.

Decodes are tried with caches on the device and a growing number of strips, then with caches in RAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..quantization import PRECISIONS
from ..units import GB, format_bytes
from ..vae.causal_conv import DecodePlan
from .estimate import (
    DEVICE,
    DISK,
    RAM,
    MemoryRequirements,
    ModelSizes,
    OffloadConfig,
    StagePlan,
    measure_sizes,
    plan_stages,
)

CONTEXT_BYTES = 500_000_000  # what CUDA itself takes of a device, outside of PyTorch's allocator
RESERVE_BYTES = CONTEXT_BYTES + 200_000_000  # with workspaces of matrix products and convolutions
FRAGMENTATION = 0.05  # share of the limit that is lost between tensors
OTHER_RAM_BYTES = 3 * GB  # beside the transformer's weights: Python, PyTorch, frames, caches of a decode
MAX_RAM_SHARE = 0.85
DECODE_PLANS = tuple(
    DecodePlan(strips, caches) for caches in ("device", "host") for strips in (1, 2, 4, 8, 16)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A configuration that fits ``limit`` bytes, and its stages; ``ram`` bytes of weights are held in RAM."""

    limit: int
    offload: OffloadConfig
    stages: tuple[StagePlan, ...]
    ram: int

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
            "host": self.ram,
            "reserve": self.limit - usable_bytes(self.limit),
            "peak": self.peak,
            "arrangement": self.offload.as_dict(),
            "stages": [stage.as_dict() for stage in self.stages],
        }

    def text(self) -> str:
        usable = format_bytes(usable_bytes(self.limit))
        lines = [
            f"GPU memory limit {format_bytes(self.limit)}: {usable} for the run, the rest is a reserve",
            "stage      peak GB  weights  conditions  activations  on the GPU",
        ]
        for stage in self.stages:
            weights, conditions, activations = (
                f"{count / GB:.2f}" for count in (stage.weights, stage.conditions, stage.activations)
            )
            lines.append(
                f"{stage.name:<10} {stage.total / GB:7.2f} {weights:>8} {conditions:>11} {activations:>12}  "
                f"{stage.text}"
            )
        return "\n".join(lines)

    def line(self) -> str:
        sample, decode = self.stage("sample"), self.stage("decode")
        return f"{sample.text}; decode: {decode.description}; peak {format_bytes(self.peak)}"

    def stage(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)


def usable_bytes(limit: int) -> int:
    """Bytes of a limit that a plan may use."""
    return max(0, round(limit * (1 - FRAGMENTATION)) - RESERVE_BYTES)


def plan_memory(sizes: ModelSizes, requirements: MemoryRequirements, limit: int, ram: int) -> MemoryPlan:
    """The fastest configuration for bytes of GPU memory and RAM. Raises ``InputError`` if nothing fits."""
    usable, total = usable_bytes(limit), sizes.transformer.total
    home = RAM if total + OTHER_RAM_BYTES <= MAX_RAM_SHARE * ram else DISK
    for config in _configs(sizes, requirements, home, usable):
        for decode in DECODE_PLANS:
            if config.home == DEVICE and decode.caches != "device":
                break  # decoding would lose what resident weights gain
            offload = replace(config, decode=decode)
            stages = plan_stages(sizes, requirements, offload)
            if max(stage.total for stage in stages) <= usable:
                in_ram = total if offload.home == RAM else sizes.transformer.once.total
                return MemoryPlan(limit=limit, offload=offload, stages=stages, ram=in_ram)
    least, stage = min_limit(sizes, requirements)
    precision, smaller = requirements.precision, list[str]()
    for name in ["bf16"] * (precision.compute.itemsize > 2) + ["fp8"] * (not precision.fp8_weights):
        other = measure_sizes(sizes.config, PRECISIONS[name], sizes.text, sizes.speech)
        if min_limit(other, replace(requirements, precision=PRECISIONS[name]))[0] <= limit:
            smaller.append(name)
    raise InputError(
        "The run does not fit the GPU memory limit.",
        found=format_bytes(limit),
        expected=f"at least {format_bytes(least)} in {precision.name}, for the stage {stage}",
        fix="allow more" + f", or use {' or '.join(smaller)}" * bool(smaller),
    )


def min_limit(sizes: ModelSizes, requirements: MemoryRequirements) -> tuple[int, str]:
    """The smallest limit that a run fits, and the stage that decides it."""
    smallest = OffloadConfig(
        home=DISK,
        resident=0,
        passes="layer-major",
        on_access=True,
        steps_on_access=True,
        decode=DECODE_PLANS[-1],
    )
    largest = max(plan_stages(sizes, requirements, smallest), key=lambda stage: stage.total)
    return round((largest.total + RESERVE_BYTES) / (1 - FRAGMENTATION)) + 1, largest.name


def _configs(
    sizes: ModelSizes, requirements: MemoryRequirements, home: str, usable: int
) -> Iterator[OffloadConfig]:
    blocks = sizes.transformer.blocks
    for place in (DEVICE, home):
        for passes in ("batched", "sequential") if requirements.branches == 2 else ("batched",):
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
