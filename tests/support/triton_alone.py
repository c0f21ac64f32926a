"""Run by tests/model/test_triton_kernels.py in a process of its own: Triton decides at import how it runs.

``interpret`` runs the programs on the CPU and prints how far they are from torch's operations; ``compile``
makes machine code of them for GPUs that are not there.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor

CAPABILITIES = (75, 80, 86, 89, 90, 120)


def interpret() -> dict[str, float]:
    """Largest differences by case."""
    from hallo3.model.kernels import fused
    from hallo3.model.kernels import triton_kernels as programs

    drawn, far = torch.Generator().manual_seed(0), {}

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=drawn).to(dtype)

    for dtype in (torch.float32, torch.float16):
        for samples, heads, each in ((1, 6, 16), (2, 3, 64), (2, 5, 24)):
            width, name = heads * each, f"{dtype} {samples} {heads}x{each}"
            video, text = draw(2, 9, width, dtype=dtype), draw(2, 3, width, dtype=dtype)
            weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
            m = draw(samples, 6, width, dtype=dtype)
            for part in (text, text[:, :0]):
                made = torch.empty(2, part.shape[1] + 9, width, dtype=dtype)
                programs.adaln_modulate(made, video, part, weight, bias, m, 1e-5)
                wanted = fused._adaln_modulate(video, part, weight, bias, m, 1e-5)
                far[f"adaln_modulate {name} {part.shape[1]}"] = distance(made, wanted)
            table, tail = draw(2, 9, each, dtype=dtype), draw(1, 4, heads, each, dtype=dtype)
            norm = draw(2, each, dtype=dtype)
            wanted = fused._qk_norm_rope(video, norm[0], norm[1], table[0], table[1], tail, heads, 1e-6)
            made = torch.empty_like(wanted)
            made[:, 9:] = tail
            programs.qk_norm_rope(made, video, norm[0], norm[1], table[0], table[1], 1e-6)
            far[f"qk_norm_rope {name}"] = distance(made, wanted)
            joint, made = draw(2, 12, width, dtype=dtype), torch.empty_like(video)
            programs.gated_residual(made, video, joint[:, 3:], m[:, 2:3])
            wanted = fused._gated_residual(video, joint[:, 3:], m[:, 2:3])
            far[f"gated_residual {name}"] = distance(made, wanted)
    return far


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative to the type's own rounding."""
    step = torch.finfo(found.dtype).eps * wanted.float().abs().clamp(min=1)
    return float(((found.float() - wanted.float()).abs() / step).max())


def machine_code() -> dict[str, int]:
    """Bytes of each program for each capability, at the released model's sizes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as make

    from hallo3.model.kernels import triton_kernels as programs

    sizes: dict[str, int] = {}
    known = {"_modulate": {"BLOCK": 4096}, "_rotate": {"HEADS": 64, "BLOCK": 64}, "_gate": {"BLOCK": 4096}}
    numbers = {"texts", "tokens", "width", "heads", "step", "part"}
    for name, constants in known.items():
        program: Any = getattr(programs, name)
        kinds = {
            argument: "constexpr"
            if argument in constants
            else "fp32"
            if argument == "eps"
            else "i32"
            if argument in numbers or argument.endswith(("_batch", "_row"))
            else "*bf16"
            for argument in program.arg_names
        }
        values = {(program.arg_names.index(key),): value for key, value in constants.items()}
        for capability in CAPABILITIES:
            source = ASTSource(fn=program, signature=kinds, constexprs=values)
            made = make(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
            sizes[f"{name} {capability}"] = len(made.asm["cubin"])
    return sizes


if __name__ == "__main__":
    found = interpret() if sys.argv[1] == "interpret" else machine_code()
    sys.stdout.write(json.dumps(found) + "\n")
