"""How the released model runs under ceilings of a GPU's memory, a line each."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..kernels.choice import AUTO, expected_kernels
from ..kernels.plain import PLAIN
from ..presets import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from ..weights.precision import PRECISIONS
from .plan import GB, plan_memory
from .sizes import Sizes, sizes_of
from .stages import Demand

CEILINGS = (6, 8, 12, 16, 24)
"""GB that many cards have."""


def ceilings(gpu_memory: int, ram: int) -> tuple[str, ...]:
    """A line for this machine's card (0: none), and one for each of :data:`CEILINGS`; in bf16, guided."""
    sizes = sizes_of(HALLO3, PRECISIONS["bf16"], TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    demand = _demand(torch.device("cuda" if gpu_memory else "cpu"))
    here = f"this card, {gpu_memory / GB:.1f} GB: {_line(sizes, demand, gpu_memory, ram)}"
    usual = (f"--vram {size}: {_line(sizes, demand, size * GB, ram)}" for size in CEILINGS)
    return (*([here] if gpu_memory else []), *usual)


def _demand(device: torch.device) -> Demand:
    fused = expected_kernels(AUTO, device).kernels is not PLAIN
    return Demand(precision=PRECISIONS["bf16"], steps=HALLO3.defaults.steps, branches=2, fused=fused)


def _line(sizes: Sizes, demand: Demand, ceiling: int, ram: int) -> str:
    try:
        return plan_memory(sizes, demand, ceiling, ram).line()
    except InputError as error:
        return f"{error.headline} It takes {error.expected}."
