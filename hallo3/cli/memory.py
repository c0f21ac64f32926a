"""How a run fits this computer's memory, planned before it starts: ``--vram``, or the RAM for a CPU."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import torch

from ..errors import InputError
from ..jobs.estimate import SegmentTime, read_speed, speed_key
from ..loading import MANUAL_OFFLOADS, check_fp8_on_disk
from ..messages import logger
from ..offload.budget import (
    CLOSE_PROGRAMS,
    MemoryPlan,
    plan_cpu_memory,
    plan_manual,
    plan_memory,
    shrink_plan,
    smaller_precisions,
)
from ..offload.estimate import DEVICE, RAM, MemoryRequirements, OffloadConfig
from ..offload.sizes import ModelSizes, measure_folder
from ..offload.system_memory import available_bytes, free_bytes, total_bytes
from ..quantization import PRECISIONS, Precision
from ..residency import release_memory
from ..units import GB, format_bytes
from .request import AnimateRequest
from .session import IDENTITY, MEMORY_PLAN, MODELS

ON_ACCESS_ERROR, RESIZE_ERROR = 0.15, 0.1
"""More, of an expected time, where conditions are projected again in each step, and frames are resized."""


def plan_run_memory(request: AnimateRequest) -> AnimateRequest:
    """The request with a memory plan, if its model is large or GPU memory is limited. Raises ``InputError``
    if the run does not fit."""
    if request.memory is not None:
        return request
    check_vram(request)
    limited = _limit_bytes(request) is not None
    if not limited and not (request.device.type in ("cpu", "cuda") and request.files.is_large):
        return request
    on_cpu = request.device.type == "cpu" and not limited
    precision = request.precision
    if request.device.type == "cpu" and not on_cpu and request.options.dtype == "auto":  # planned without one
        precision = PRECISIONS["bf16" if request.files.is_large else "fp32"]
    sizes, requirements = _measure(request, precision)

    def plan_now() -> MemoryPlan:
        session.drop(MODELS, IDENTITY)  # loaded under another plan
        release_memory()
        available, limit = available_bytes(), _limit_bytes(request)
        if on_cpu and not _manual_options(request):
            return plan_cpu_memory(sizes, requirements, available)
        if limit is None:
            offload = _manual_config(request)
            limit = available if on_cpu else free_bytes(request.device)
            return plan_manual(sizes, requirements, offload, available, limit=limit, on_cpu=on_cpu)
        if isinstance(vram := request.options.vram, float) and limit < round(vram * GB):
            free = format_bytes(limit)
            logger.warning(
                f"--vram {vram:g} is more than the {free} of free GPU memory, which is planned for"
            )
        return plan_memory(sizes, requirements, limit, available)

    session = request.session
    plan = session.keep(MEMORY_PLAN, _plan_key(request, requirements), plan_now)
    check_fp8_on_disk(request.files, precision, plan.offload.home)
    return _follow(request, plan)


def _plan_key(request: AnimateRequest, requirements: MemoryRequirements) -> tuple[object, ...]:
    """Requests with the same key run under the same plan, one after the other."""
    options = request.options
    limits = options.vram, _manual_options(request), request.settings.passes, request.settings.on_access
    return request.files.path, request.config, str(request.device), requirements, *limits


def shrink_memory(
    request: AnimateRequest, share: float, stage: str, caps: Mapping[str, int], *, in_ram: bool
) -> AnimateRequest | None:
    """The request after memory ran out in a stage, planned for this ``share`` of its limit, and of the RAM if
    it ran out ``in_ram``. The limit that PyTorch enforces stays, unless other programs have taken more. None
    if nothing smaller exists, or options decide what is streamed."""
    plan = request.memory
    if plan is None or plan.manual:
        return None
    ram, limit = available_bytes(), plan.limit
    if plan.on_cpu or request.device.type == "cuda":
        limit = min(limit, ram if plan.on_cpu else free_bytes(request.device))
    ram = round(share * ram) if in_ram else ram
    sizes, requirements = _measure(request, request.precision)
    smaller = shrink_plan(replace(plan, limit=limit), sizes, requirements, share, ram, stage, caps)
    with suppress(InputError):
        if smaller is not None:
            check_fp8_on_disk(request.files, request.precision, smaller.offload.home)
            smaller = replace(smaller, limit=limit)
            request.session.drop(MEMORY_PLAN)  # the next request begins with what was enough here
            request.session.keep(MEMORY_PLAN, _plan_key(request, requirements), lambda: smaller)
            return _follow(request, smaller)
    return None


def advise_less_memory(request: AnimateRequest) -> str:
    """What to change where memory ran out and no smaller plan exists."""
    if manual := _manual_options(request):
        return f"{manual} decides what is streamed; without it a plan does, which shrinks if memory runs out"
    if request.memory is None:
        return f"use --low-memory, {CLOSE_PROGRAMS}"
    smaller = " or ".join(f"--dtype {name}" for name in smaller_precisions(request.precision))
    return f"{'use ' * bool(smaller)}{smaller}{', or ' * bool(smaller)}{CLOSE_PROGRAMS}"


def _measure(request: AnimateRequest, precision: Precision) -> tuple[ModelSizes, MemoryRequirements]:
    requirements = MemoryRequirements(
        precision=precision,
        steps=request.settings.steps,
        branches=request.settings.branches,
        fused=request.kernels.kernels.name == "fused",
        prompt=request.has_prompt,
        portrait=request.options.identity is None,
        speakers=request.speakers,
    )
    return measure_folder(request.files, request.config, precision), requirements


def _follow(request: AnimateRequest, plan: MemoryPlan) -> AnimateRequest:
    offload = plan.offload
    settings = replace(
        request.settings,
        passes=offload.passes,
        on_access=offload.on_access,
        steps_on_access=offload.steps_on_access,
    )
    planned = replace(request, memory=plan, settings=settings)
    planned.__dict__["kernels"] = request.kernels  # chosen once: their self-test compiles
    return planned


def _manual_config(request: AnimateRequest) -> OffloadConfig:
    """What ``--offload`` and ``--low-memory`` ask for. On a CPU there is one memory."""
    settings, on_cpu = request.settings, request.device.type == "cpu"
    whole = OffloadConfig(home=DEVICE if on_cpu else RAM, resident=request.config.trunk.layers, passes="")
    offload = MANUAL_OFFLOADS[request.offload] or whole
    if on_cpu:
        offload = whole if offload.home == RAM else offload
        offload = replace(offload, decode=replace(offload.decode, caches="device"))
    return replace(offload, passes=settings.passes, on_access=settings.on_access)


def expected_segment_time(request: AnimateRequest, read_rate: float) -> SegmentTime | None:
    """How long a segment should take, as this device was measured; None if it was not, or not for such a run.
    A disk gives ``read_rate`` bytes per second."""
    options, settings, memory = request.options, request.settings, request.memory
    speed = read_speed(request.device, speed_key(request.config, request.precision.name))
    other_device = request.device.type == "cpu" and options.vram is not None
    if speed is None or other_device or (options.attention, options.kernels) != ("auto", "auto"):
        return None
    streamed, read, size = 0, 0.0, request.size
    if memory is not None:
        home, resident = memory.offload.home, memory.offload.resident
        streamed = speed.blocks - resident if home == RAM and request.device.type == "cuda" else 0
        read = memory.read_per_step / read_rate if read_rate else 0.0
    counts = Counter(len(each.branches) for each in settings.guidance())
    time = speed.segment_time(
        guided=counts[2],
        unguided=counts[1],
        three=counts[3],
        pixels=request.config.segment.new_frames * size[0] * size[1],
        streamed=streamed,
        sequential=settings.passes != "batched",
        read=read,
    )
    if time is None:
        return None
    more = ON_ACCESS_ERROR * settings.on_access + RESIZE_ERROR * (size[0] != request.subject.canvas.width)
    return replace(time, error=time.error + more)


def check_vram(request: AnimateRequest) -> None:
    """Raises ``InputError`` for a limit that contradicts other options, or without a GPU to limit."""
    limit = request.options.vram
    if limit is None:
        return
    if manual := _manual_options(request):
        raise InputError(
            "These options contradict each other.",
            found=f"--vram and {manual}",
            expected="one of them: with --vram, the plan decides what is streamed",
            fix=f"remove {manual}",
        )
    if isinstance(limit, float) and not (math.isfinite(limit) and limit > 0):
        raise InputError(
            "The memory limit is invalid.",
            found=f"--vram {limit:g}",
            expected="a number of GB above 0",
            fix="give what the GPU has, or less",
        )
    if request.device.type == "cuda" or (isinstance(limit, float) and request.options.plan):
        return
    shown = limit if isinstance(limit, str) else f"{limit:g}"
    raise InputError(
        "There is no GPU whose memory could be limited.",
        found=f"--vram {shown} on the device {request.device.type}",
        expected="a CUDA device, or a number of GB with --plan",
        fix="remove --vram",
    )


def _limit_bytes(request: AnimateRequest) -> int | None:
    vram, device = request.options.vram, request.device
    if device.type != "cuda":
        return round(vram * GB) if isinstance(vram, float) else None
    if not isinstance(vram, float):
        return None if _manual_options(request) else free_bytes(device)
    limit, total, free = round(vram * GB), total_bytes(device), free_bytes(device)
    if limit > total:
        raise InputError(
            "The GPU has less memory than --vram.",
            found=f"--vram {vram:g}",
            expected=f"at most {format_bytes(total)}",
            fix="give less, or remove --vram: the free memory is used then",
        )
    return min(limit, free)


def _manual_options(request: AnimateRequest) -> str:
    options = request.options
    return f"--offload {options.offload}" if options.offload else "--low-memory" if options.low_memory else ""


ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def use_expandable_segments() -> None:
    """Let PyTorch map GPU memory in small pieces, where it can (CUDA on Linux): then none is lost between
    tensors of different sizes. Call it before CUDA starts; what a user has set stays."""
    if sys.platform == "linux" and torch.version.cuda and os.environ.keys().isdisjoint(ALLOCATOR_SETTINGS):
        os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
