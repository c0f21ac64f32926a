"""Whether a result can be held at all, asked before hours are spent on it."""

from __future__ import annotations

import comfy.model_management as mm
import torch

from ...hallo3.errors import InputError

ADVICE = "disconnect images, and take the video alone: that fits at any length"


def compute_device() -> str:
    """The kind of device that ComfyUI computes on."""
    return str(mm.get_torch_device().type)


def stoppable(done: int, total: int) -> None:
    """A place to be interrupted."""
    del done, total
    mm.throw_exception_if_processing_interrupted()


def check_memory(needed: int, what: str, do: str = ADVICE) -> None:
    """Refuse a result of so many bytes if the machine does not have them. Raises ``InputError``."""
    there = int(mm.get_total_memory(torch.device("cpu")))
    if needed > there:
        raise InputError(
            "The video does not fit into memory.",
            found=f"{what}: {needed / 2**30:.1f} GiB",
            expected=f"at most the {there / 2**30:.1f} GiB of this computer",
            do=do,
        )
