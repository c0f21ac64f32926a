"""``--vram``: fit a run into a limit of GPU memory, planned before it starts."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

from ..checkpoints.load import read_component_config
from ..config import SPEECH_ENCODERS, TEXT_ENCODERS
from ..errors import CheckpointError, InputError
from ..messages import logger
from ..offload.budget import plan_memory
from ..offload.estimate import MemoryRequirements, measure_sizes
from ..offload.system_memory import available_bytes, free_bytes, limit_torch, total_bytes
from ..quantization import PRECISIONS
from ..units import GB, format_bytes
from .request import AnimateRequest


def plan_run_memory(request: AnimateRequest) -> AnimateRequest:
    """The request with a memory plan, if there is a limit. Raises ``InputError`` if no plan fits."""
    check_vram(request)
    limit = _limit_bytes(request)
    if limit is None:
        return request
    precision = request.precision
    if request.device.type == "cpu" and request.options.dtype == "auto":  # a plan for a GPU, made without one
        precision = PRECISIONS["bf16"]
    requirements = MemoryRequirements(
        precision=precision,
        steps=request.settings.steps,
        branches=request.settings.branches,
        fused=request.kernels.kernels.name == "fused",
    )
    text, speech = TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"]  # if the files are missing
    with suppress(CheckpointError):
        text = read_component_config(request.files.open("text_encoder"), "text_encoder")
    with suppress(CheckpointError):
        speech = read_component_config(request.files.open("speech_encoder"), "speech_encoder")
    sizes = measure_sizes(request.config, precision, text, speech)
    plan = plan_memory(sizes, requirements, limit, available_bytes())
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


def limit_gpu_memory(request: AnimateRequest) -> None:
    """Let PyTorch enforce ``--vram`` on a CUDA device; by default the device is the limit."""
    explicit = request.memory is not None and isinstance(request.options.vram, float)
    limit = request.memory.torch_limit if request.memory and explicit else total_bytes(request.device)
    limit_torch(limit, request.device)


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
    if limit > free:
        logger.warning(
            f"--vram {vram:g} is more than the {format_bytes(free)} of free GPU memory, which is planned for"
        )
    return min(limit, free)


def _manual_options(request: AnimateRequest) -> str:
    options = request.options
    return f"--offload {options.offload}" if options.offload else "--low-memory" if options.low_memory else ""
