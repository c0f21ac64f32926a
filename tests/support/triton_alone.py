"""A subprocess of tests/model/kernels/test_triton_kernels.py, because Triton decides at import how it runs.

``interpret`` runs the kernels on the CPU and returns their distances from torch's operations;
``compile_kernels`` compiles them for several GPUs and says how they read, write and spill.
"""

import re
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CAPABILITIES = (75, 80, 86, 89, 90, 120)


def interpret() -> dict[str, float]:
    """Largest distance per case."""
    from hallo3.model.kernels import fused
    from hallo3.model.kernels import triton_kernels as programs

    generator, distances = torch.Generator().manual_seed(0), dict[str, float]()

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    for dtype in (torch.float32, torch.float16):
        for samples, heads, each in ((1, 6, 16), (2, 3, 64), (2, 5, 24)):
            width, name = heads * each, f"{dtype} {samples} {heads}x{each}"
            video, text = draw(2, 9, width, dtype=dtype), draw(2, 3, width, dtype=dtype)
            weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
            m = draw(samples, 6, width, dtype=dtype)
            for part in (text, text[:, :0]):
                out = torch.empty(2, part.shape[1] + 9, width, dtype=dtype)
                programs.adaln_modulate(out, video, part, weight, bias, m, 1e-5)
                expected = fused._adaln_modulate(video, part, weight, bias, m, 1e-5)
                distances[f"adaln_modulate {name} {part.shape[1]}"] = distance(out, expected)
            table, tail = draw(2, 9, each, dtype=dtype), draw(1, 4, heads, each, dtype=dtype)
            norm = draw(2, each, dtype=dtype)
            expected = fused._qk_norm_rope(video, norm[0], norm[1], table[0], table[1], tail, heads, 1e-6)
            out = torch.empty_like(expected)
            out[:, 9:] = tail
            programs.qk_norm_rope(out, video, norm[0], norm[1], table[0], table[1], 1e-6)
            distances[f"qk_norm_rope {name}"] = distance(out, expected)
            joint, out = draw(2, 12, width, dtype=dtype), torch.empty_like(video)
            programs.gated_residual(out, video, joint[:, 3:], m[:, 2:3])
            expected = fused._gated_residual(video, joint[:, 3:], m[:, 2:3])
            distances[f"gated_residual {name}"] = distance(out, expected)
            normed, others = torch.empty_like(out), (weight, bias, 1e-5)
            programs.gated_residual(out, video, joint[:, 3:], m[:, 2:3], (normed, *others))
            expected = torch.stack(fused._gated_residual_norm(video, joint[:, 3:], m[:, 2:3], *others))
            distances[f"gated_residual_norm {name}"] = distance(torch.stack((out, normed)), expected)
    return distances


def distance(result: Tensor, expected: Tensor) -> float:
    """In roundings of the type."""
    step = torch.finfo(result.dtype).eps * expected.float().abs().clamp(min=1)
    return float(((result.float() - expected.float()).abs() / step).max())


def compile_kernels() -> dict[str, dict[str, int]]:
    """What each kernel is made of for each capability, at the released model's sizes: bytes of machine code,
    global loads and stores of 16 bytes and of fewer, and bytes of registers that go to memory."""
    from hallo3.model.kernels import triton_kernels as programs

    compiler: Any = import_module("triton.compiler")
    target: Any = import_module("triton.backends.compiler").GPUTarget
    found: dict[str, dict[str, int]] = {}
    kernels = [("_modulate", {"BLOCK": 4096}), ("_rotate", {"HEADS": 64, "BLOCK": 64})]
    kernels += [("_gate", {"BLOCK": 4096, "NORM": norm}) for norm in (False, True)]
    numbers = {"texts", "tokens", "width", "heads", "step", "part"}
    for name, constants in kernels:
        program: Any = getattr(programs, name)
        kinds = {
            argument: "i32" if argument in numbers or argument.endswith(("_batch", "_row")) else "*bf16"
            for argument in program.arg_names
        }
        kinds |= dict.fromkeys(constants, "constexpr") | ({"eps": "fp32"} if "eps" in kinds else {})
        places = {argument: (program.arg_names.index(argument),) for argument in kinds}
        values = {places[key]: value for key, value in constants.items()}
        # as at a launch: torch's memory is aligned, and so are rows of 3072 channels; 226 text tokens are not
        even = kinds.keys() - constants.keys() - {"eps", "texts", "tokens"}
        hints = {places[argument]: [["tt.divisibility", 16]] for argument in even}
        for capability in CAPABILITIES:
            source = compiler.ASTSource(fn=program, signature=kinds, constexprs=values, attrs=hints)
            options = {"num_warps": 8}
            kernel = compiler.compile(source, target=target("cuda", capability, 32), options=options)
            found[f"{name} {constants} {capability}"] = {
                "code": len(kernel.asm["cubin"]),
                **count_accesses(kernel.asm["ptx"]),
                "spilled": count_spilled(kernel.asm["cubin"]),
            }
    return found


def count_accesses(ptx: str) -> dict[str, int]:
    """Loads and stores of global memory, of 16 bytes and of fewer."""
    sizes = [
        int(vector or 1) * int(bits) // 8
        for vector, bits in re.findall(r"\b(?:ld|st)\.global[.\w]*?(?:\.v(\d))?\.[busf](\d+)\b", ptx)
    ]
    return {"whole": sum(size == 16 for size in sizes), "parts": sum(size != 16 for size in sizes)}


def count_spilled(machine_code: bytes) -> int:
    """Bytes of memory that hold what does not fit in registers."""
    tool = Path(import_module("triton").__file__ or "").parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "kernel.cubin").write_bytes(machine_code)
        words = [str(tool), "--dump-resource-usage", str(path)]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    [[stack, local]] = re.findall(r"STACK:(\d+).*LOCAL:(\d+)", told)
    return int(stack) + int(local)
