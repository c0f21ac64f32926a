"""Which kernels a run computes with, by name; ``auto`` takes the fused ones where they are seen to work."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from .eager import PLAIN, Kernels

AUTO = "auto"
NAMES = (AUTO, "plain", "fused")
NEAR = 0.02
"""How far fused kernels may be from plain ones when they are tried, relative: twice bfloat16's rounding."""


class KernelChoice(NamedTuple):
    """The kernels, and for ``auto`` on a GPU why not the fused ones; empty where there is nothing to say."""

    kernels: Kernels
    why_plain: str = ""


def choose_kernels(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> KernelChoice:
    """Kernels by name for a device. The fused ones are compiled for it and tried beside the plain ones
    first, in the type that is to flow.

    Raises ``InputError`` for a name that is none, and for ``fused`` where they cannot run.
    """
    if name not in NAMES:
        raise InputError(
            "There are no such kernels.",
            found=repr(name),
            expected=" or ".join(NAMES),
            fix="choose one of these, or leave it out",
        )
    if name == "plain" or (name == AUTO and device.type != "cuda"):
        return KernelChoice(PLAIN)
    why = why_not(device, dtype)
    if why and name == "fused":
        raise InputError(
            "The fused kernels cannot run here.",
            found=why,
            expected="a CUDA device with Triton, which torch compiles them by",
            fix="choose auto or plain; on Windows, install triton-windows",
        )
    if why:
        return KernelChoice(PLAIN, why)
    from .fused import FUSED

    return KernelChoice(FUSED)


def expected_kernels(name: str, device: torch.device) -> KernelChoice:
    """What :func:`kernels_named` will probably choose, without trying it: for plans. A plan that is made
    without a GPU is for one that has Triton. Raises ``InputError`` as that does, where no trial is needed
    for it."""
    without = device.type == "cuda" and find_spec("triton") is None
    if name not in NAMES or (name == "fused" and without):
        return choose_kernels(name, device)
    if name == "plain" or without or device.type not in ("cuda", "cpu"):
        return KernelChoice(PLAIN)
    from .fused import FUSED

    return KernelChoice(FUSED)


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Why the fused kernels cannot be used on a device in a type; empty if they can. Raises
    ``torch.OutOfMemoryError``."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    from .fused import FUSED

    try:
        apart = _apart(FUSED, device, dtype)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or not _stops_a_compiler(error):
            raise
        said = str(error).strip().splitlines() or ["without a word"]
        return f"{type(error).__name__}: {said[0][:200]}"
    far = [each for each in apart if not each <= NEAR]  # what is not a number is not near either
    return f"results {far[0]:.3f} away from torch's own" if far else ""


def _stops_a_compiler(error: Exception) -> bool:
    """Triton's own errors, those of the C compiler it calls, a driver that is too old; not a mistake of
    ours."""
    kinds = (RuntimeError, ImportError, OSError, ValueError)
    return (
        isinstance(error, kinds)
        or type(error).__module__.startswith("triton")
        or type(error).__name__ == "CalledProcessError"
    )


@torch.inference_mode()
def _apart(fused: Kernels, device: torch.device, dtype: torch.dtype) -> list[float]:
    """How far the fused kernels are from the plain ones on small numbers, each relative."""
    drawn = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn).to(device, dtype)

    norm, head = nn.LayerNorm(128), nn.LayerNorm(64, eps=1e-6)
    linear = nn.Linear(128, 512)
    for layer in (norm, head, linear):
        layer.to(device, dtype)
    video, text, modulation = draw(2, 70, 128), draw(2, 6, 128), draw(2, 6, 128)
    cos, sin, tail, behind = draw(70, 64), draw(70, 64), draw(1, 2, 5, 64), draw(1, 5, 512)

    def results(kernels: Kernels) -> tuple[Tensor, ...]:
        return (
            kernels.modulated(norm, video, text, modulation),
            kernels.modulated(norm, video, text[:, :0], modulation[:1]),
            kernels.rotated(head, video, 2, cos, sin, tail),
            kernels.rotated(head, video, 2, cos, sin),
            kernels.followed(linear, video, behind),
            kernels.gated(video, video, modulation[:, 2:3]),
            kernels.activated(linear, video),
        )

    pairs = zip(results(fused), results(PLAIN), strict=True)
    return [_distance(found, wanted) for found, wanted in pairs]


def _distance(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).square().sum() / wanted.square().sum()).sqrt().item()
