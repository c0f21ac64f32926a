"""What a run needs of the device; and a second try: all models are unloaded, a share of it stays free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management as mm
import torch

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError, describe_error
from ...hallo3.residency import SHARES
from ...hallo3.units import GB, format_bytes
from ...hallo3.vae.decode_memory import PLANS, decode_bytes
from .model import ModelConfig
from .progress import OutOfMemory, show_warning


def device_memory(config: Hallo3Config, weights: Mapping[str, int]) -> str:
    """A line that says what a run needs of the device, where ComfyUI places weights. Raises ``InputError`` if
    they fit neither there nor in RAM, or if what is computed beside them does not fit."""
    device, total = mm.get_torch_device(), int(mm.get_total_memory(torch.device("cpu")))
    needed, on_gpu = sum(weights.values()), not mm.is_device_cpu(device)
    gpu = int(mm.get_total_memory(device)) if on_gpu else 0
    if needed > total + gpu:
        large = ", ".join(f"{name} {format_bytes(size)}" for name, size in weights.items() if size > GB)
        raise InputError(
            "The model does not fit in memory.",
            found=f"{format_bytes(total)} of RAM" + f" and {format_bytes(gpu)} on the GPU" * on_gpu,
            expected=f"{format_bytes(needed)} for the weights ({large})",
            fix="use fp8 files, disconnect `positive` (it needs T5), or remove this node: ComfyUI may then "
            "read the weights from disk in every step",
        )
    if not on_gpu:
        return "GPU       none: everything is computed in RAM"
    latent = config.segment.shape.latent
    step = round(
        latent.frames * latent.height * latent.width * 2 * 0.01 * ModelConfig.memory_usage_factor * 2**20
    )
    decode = decode_bytes(config.vae, latent, PLANS[-1], 2)
    if max(step, decode) > gpu:
        raise InputError(
            "The video does not fit on the GPU.",
            found=f"{format_bytes(gpu)} of GPU memory",
            expected=f"{format_bytes(step)} for a step, {format_bytes(decode)} to decode, beside weights",
            fix="use a GPU with more memory, or start ComfyUI with --cpu",
        )
    return (
        f"GPU       {format_bytes(gpu)}: {format_bytes(step)} per guidance branch of a step and "
        f"{format_bytes(decode)} or more to decode; ComfyUI keeps there what fits of the weights, "
        f"{format_bytes(needed)}"
    )


def spare_bytes(device: Any, share: float) -> int:
    """What stays free of a device of which a ``share`` is used."""
    return round((1 - share) * int(mm.get_total_memory(device))) if share < 1 else 0


class SecondTry:
    """After memory ran out in a stage of a node, the stage is tried at most twice more, each time with a
    smaller ``share`` of the device."""

    def __init__(self, device: Any) -> None:
        self._device, self._shares, self.share = device, [*SHARES], 1.0

    def describe(self) -> str:
        return f"ComfyUI's, with {100 * self.share:g} % of the device"

    def shrink(self, error: Exception, stage: str) -> bool:
        """Says what was wanted, and what is done."""
        if not self._shares:
            return False
        self.share = self._shares.pop(0)
        mm.is_oom(error)  # clears CUDA's error
        mm.unload_all_models()
        mm.soft_empty_cache()
        free, total = int(mm.get_free_memory(self._device)), int(mm.get_total_memory(self._device))
        found = error.found if isinstance(error, OutOfMemory) else describe_error(error)
        show_warning(
            f"out of memory in the stage {stage}: {found} All models were unloaded: {format_bytes(free)} of "
            f"{format_bytes(total)} are free. Again, with {100 * self.share:g} % of that: "
            f"{format_bytes(spare_bytes(self._device, self.share))} stay free."
        )
        return True
