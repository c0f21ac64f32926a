"""Choose eager or fused kernels by name; ``auto`` uses the fused ones on GPUs where they pass a self-test."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError, check_choice
from .eager import PLAIN, Kernels

AUTO = "auto"
NAMES = (AUTO, "plain", "fused")
MAX_DISTANCE = 0.02
"""Largest relative distance of fused kernels from plain ones in the self-test: twice bfloat16's rounding."""


class KernelChoice(NamedTuple):
    """``reason``: why ``auto`` did not choose the fused kernels on a GPU; empty otherwise."""

    kernels: Kernels
    reason: str = ""


def choose_kernels(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> KernelChoice:
    """Compile and test the fused kernels, in ``dtype``, if they can be chosen. Raises ``InputError`` for an
    unknown name, and for ``fused`` where they cannot run."""
    check_choice(name, NAMES, "kernels")
    if name == "plain" or (name == AUTO and device.type != "cuda"):
        return KernelChoice(PLAIN)
    if reason := why_unsupported(device, dtype):
        if name == AUTO:
            return KernelChoice(PLAIN, reason)
        raise InputError(
            "The fused kernels cannot run here.",
            found=reason,
            expected="a CUDA device with Triton, which torch compiles them by",
            fix="choose auto or plain; on Windows, install triton-windows",
        )
    from .fused import FUSED

    return KernelChoice(FUSED)


def expected_kernels(name: str, device: torch.device) -> KernelChoice:
    """What :func:`choose_kernels` will probably choose, untested: for plans. A plan made without a GPU is for
    one with Triton. Raises ``InputError`` as that does, as far as no test is needed."""
    missing = device.type == "cuda" and find_spec("triton") is None
    if name not in NAMES or (name == "fused" and missing):
        return choose_kernels(name, device)
    if name == "plain" or missing or device.type not in ("cuda", "cpu"):
        return KernelChoice(PLAIN)
    from .fused import FUSED

    return KernelChoice(FUSED)


def why_unsupported(device: torch.device, dtype: torch.dtype) -> str:
    """Why the fused kernels cannot be used; empty if they can. Raises ``torch.OutOfMemoryError``."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    from .fused import FUSED

    try:
        plain, fused = _results(PLAIN, device, dtype), _results(FUSED, device, dtype)
    except Exception as error:
        unsupported = is_compiler_error(error) or isinstance(
            error, RuntimeError | ImportError | OSError | ValueError
        )
        if isinstance(error, torch.OutOfMemoryError) or not unsupported:
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        return f"{type(error).__name__}: {lines[0][:200]}"
    distances = [relative_distance(actual, expected) for actual, expected in zip(fused, plain, strict=True)]
    far = [each for each in distances if not each <= MAX_DISTANCE]  # NaN is far, too
    return f"results {far[0]:.3f} away from torch's own" if far else ""


def is_compiler_error(error: Exception) -> bool:
    """Whether Triton, or the C compiler it calls, failed."""
    return type(error).__module__.startswith("triton") or type(error).__name__ == "CalledProcessError"


@torch.inference_mode()
def _results(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What kernels compute of small random values."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    norm, head_norm = nn.LayerNorm(128), nn.LayerNorm(64, eps=1e-6)
    linear = nn.Linear(128, 512)
    for layer in (norm, head_norm, linear):
        for parameter in layer.parameters():
            parameter.data = draw(*parameter.shape) / 8
    video, text, modulation = draw(2, 70, 128), draw(2, 6, 128), draw(2, 6, 128)
    cos, sin, kv_tail, linear_tail = draw(70, 64), draw(70, 64), draw(1, 2, 5, 64), draw(1, 5, 512)
    return (
        kernels.adaln_modulate(norm, video, text, modulation),
        kernels.adaln_modulate(norm, video, text[:, :0], modulation[:1]),
        kernels.qk_norm_rope(head_norm, video, 2, cos, sin, kv_tail),
        kernels.qk_norm_rope(head_norm, video, 2, cos, sin),
        kernels.linear_concat(linear, video, linear_tail),
        kernels.gated_residual(video, video, modulation[:, 2:3]),
        *kernels.gated_residual_norm(norm, video, video, modulation[:, 2:3]),
        kernels.linear_gelu(linear, video),
    )


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """L2."""
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).square().sum() / expected.square().sum()).sqrt().item()
