"""``--vram``: a whole run under a ceiling of the GPU's memory, planned before it starts."""

from __future__ import annotations

import math
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..checkpoints.component_config import read_component_config
from ..config import SPEECH_ENCODERS, TEXT_ENCODERS
from ..errors import CheckpointError, InputError
from ..messages import logger
from ..model.kernels.select import choose_kernels
from ..offload.budget import GB, MemoryPlan, plan_memory
from ..offload.estimate import MemoryRequirements, measure_sizes
from ..offload.system_memory import available_bytes, free_bytes, keep_under, total_bytes
from ..quantization.precision import PRECISIONS
from .args import AUTO_VRAM
from .request import Request


def planned(request: Request) -> Request:
    """The request under a plan of memory, if there is a ceiling to keep. Unless it is only to be shown, the
    kernels are tried first on a GPU, since fused ones hold less; the request has those that were chosen.

    Raises ``InputError`` for a ceiling that cannot be kept, and as :func:`check_vram` and
    :func:`~hallo3.kernels.choice.kernels_named` do.
    """
    check_vram(request)
    ceiling = _ceiling(request)
    if request.device.type == "cuda" and not request.options.plan:
        chosen = choose_kernels(request.options.kernels, request.device, request.precision.compute)
        request = replace(request, kernels=chosen, tried=True)
    if ceiling is None:
        return request
    options = request.options
    precision = request.precision
    if request.device.type == "cpu" and options.dtype == "auto":  # a plan for a GPU, made without one
        precision = PRECISIONS["bf16"]
    text, speech = _encoders(request)
    demand = MemoryRequirements(
        precision=precision,
        steps=request.settings.steps,
        branches=request.settings.branches,
        fused=request.kernels.kernels.name == "fused",
    )
    plan = plan_memory(
        measure_sizes(request.config, precision, text, speech), demand, ceiling, available_bytes()
    )
    arranged = plan.arrangement
    settings = replace(
        request.settings,
        passes=arranged.passes,
        on_access=arranged.on_access,
        steps_on_access=arranged.steps_on_access,
    )
    return replace(request, memory=plan, settings=settings)


def keep_ceiling(request: Request) -> None:
    """Have torch keep the ceiling that was asked for; without one, none that an earlier run has set."""
    plan: MemoryPlan | None = request.memory
    if request.device.type == "cuda":
        asked = plan is not None and request.options.vram not in (None, AUTO_VRAM)
        keep_under(plan.promised if plan and asked else total_bytes(request.device), request.device)


def check_vram(request: Request) -> None:
    """Refuse a ceiling that contradicts other options, or that there is no GPU for. Raises ``InputError``."""
    asked: float | str | None = request.options.vram
    if asked is None:
        return
    if by_hand := _by_hand(request.options):
        raise InputError(
            "These options contradict each other.",
            found=f"--vram and {by_hand}",
            expected="one of them: a plan for a ceiling decides what comes when it is needed",
            fix=f"leave {by_hand} out",
        )
    if isinstance(asked, float) and not (math.isfinite(asked) and asked > 0):
        raise InputError(
            "So much memory cannot be a ceiling.",
            found=f"--vram {asked:g}",
            expected="a number of GB above 0",
            fix="give what the GPU has, or less",
        )
    if request.device.type == "cuda" or (isinstance(asked, float) and request.options.plan):
        return
    if isinstance(asked, float):
        raise InputError(
            "This device has no ceiling to keep.",
            found=f"--vram {asked:g} on the device {request.device.type}",
            expected="a CUDA device; --plan works without one",
            fix="leave --vram out",
        )
    raise InputError(
        "There is no GPU whose free memory could be asked for.",
        found=f"--vram {AUTO_VRAM} on the device {request.device.type}",
        expected="a CUDA device, or with --plan a number of GB",
        fix="give a number, or leave --vram out",
    )


def _ceiling(request: Request) -> int | None:
    """Bytes; None without a ceiling."""
    asked: float | str | None = request.options.vram
    if isinstance(asked, float):
        return _bytes(asked, request)
    if request.device.type != "cuda" or _by_hand(request.options):
        return None
    return free_bytes(request.device)


def _bytes(asked: float, request: Request) -> int:
    ceiling = round(asked * GB)
    if request.device.type != "cuda":
        return ceiling
    total, free = total_bytes(request.device), free_bytes(request.device)
    if ceiling > total:
        raise InputError(
            "The GPU has less memory than that.",
            found=f"--vram {asked:g}",
            expected=f"at most {total / GB:.1f}",
            fix="give less, or leave --vram out: what is free is then used",
        )
    if ceiling > free:
        logger.warning(
            f"--vram {asked:g} is more than the {free / GB:.1f} GB that the GPU has free; the run is planned "
            "for these."
        )
    return min(ceiling, free)


def _by_hand(options: Namespace) -> str:
    """What decides by hand what a plan would decide."""
    return f"--offload {options.offload}" if options.offload else "--low-memory" if options.low_memory else ""


def _encoders(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sizes of T5 and wav2vec2: the files', or the released model's where there are none yet."""
    found = [TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"]]
    for place, name in enumerate(("text_encoder", "speech_encoder")):
        with suppress(CheckpointError):
            found[place] = read_component_config(request.files.find(name), name)
    return found[0], found[1]
