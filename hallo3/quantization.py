"""Precisions: the type that networks compute in, and whether the blocks' matrices are stored in scaled fp8
(e4m3), divided by one number so that the largest element becomes 448.

torch has no such layer; torchao's is another dependency, with tensor subclasses of its own format.
A layer multiplies the weight back, in the type of its input: fp8 saves memory, not time.
And what computes on this machine, which decides the last bits of a type.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError, check_choice, is_out_of_memory
from .messages import logger
from .model.layers import Layers, Ops
from .storage.hashing import hash_tensor, hash_text

MAX_THREADS = 64
"""More than these, and than the processors here, are not started: a system may end a process that tries."""
MAY_DIFFER = "frames that are rendered from now on may differ by rounding"
FP8 = torch.float8_e4m3fn
MAX_FP8 = 448.0
LARGEST_FP8_BITS = {torch.float8_e4m3fn: 0x7E, torch.float8_e5m2: 0x7B}  # of finite numbers
_MIN_SCALE = torch.finfo(torch.float32).tiny  # keeps tiny matrices from being divided by 0


def fp8_scale(largest: Tensor) -> Tensor:
    """Scale of a matrix whose largest magnitude is ``largest``: float32, 1 for a matrix of zeros."""
    return torch.where(largest > 0, (largest.float() / MAX_FP8).clamp(min=_MIN_SCALE), torch.ones(()))


def to_fp8(values: Tensor, scale: Tensor) -> Tensor:
    """Divide float32 values by their scale, in place, and round to the nearest e4m3 number."""
    return values.div_(scale).clamp_(-MAX_FP8, MAX_FP8).to(FP8)


def value_range(values: Tensor) -> tuple[float, float]:
    """Bounds of a floating point tensor's elements, equal if all elements are; NaN if one is NaN or infinite.
    30 times as fast as ``isfinite``."""
    if values.dtype in LARGEST_FP8_BITS:
        bits = values.view(torch.uint8)
        most = float((bits & 0x7F).max())  # beside the sign
        same = not most or int(bits.min()) == int(bits.max())
        least, finite = most if same else 0.0, most <= LARGEST_FP8_BITS[values.dtype]
    else:
        least, most = (float(bound) for bound in torch.aminmax(values))
        finite = math.isfinite(least) and math.isfinite(most)
    return (least, most) if finite else (math.nan, math.nan)


def is_finite(values: Tensor) -> bool:
    """Whether no element of a floating point tensor is NaN or infinite."""
    return not math.isnan(value_range(values)[0])


class FP8Linear(nn.Linear):
    """A Linear whose weight may be e4m3, each number divided by ``weight_scale`` (a scalar)."""

    weight_scale: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight.requires_grad_(False)
        self.register_buffer("weight_scale", torch.ones((), device=options.get("device")))

    def dense(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight [N, K], scaled back, and bias [N], in ``like``'s type and on its device."""
        weight, bias = self.weight, cast("Tensor | None", self.bias)
        if weight.dtype == FP8:
            weight = weight.float() * self.weight_scale.float()
        return weight.to(like), None if bias is None else bias.to(like)

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype != FP8:
            return F.linear(input, self.weight, self.bias)
        return F.linear(input, *self.dense(input))


_BLOCK_MATRICES = re.compile(
    r"transformer_blocks\.\d+\.(attn1|attn_face|attn_audio|ff)\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)\.weight"
)


@dataclass(frozen=True, slots=True)
class Precision:
    """``compute``: type of all activations; ``fp8_weights``: keep the blocks' matrices in scaled fp8."""

    name: str
    compute: torch.dtype
    fp8_weights: bool = False

    @property
    def unquantized(self) -> Precision:
        return replace(self, fp8_weights=False)

    @property
    def of_text(self) -> Precision:
        """T5's: in float16 it overflows."""
        return PRECISIONS["fp32"] if self.compute == torch.float16 else self.unquantized

    def is_fp8(self, name: str) -> bool:
        """Whether the tensor of this name is kept in fp8: only matrices of attention and feed-forward are;
        norms, modulations, embeddings and projections are too small or too sensitive."""
        return self.fp8_weights and _BLOCK_MATRICES.fullmatch(name) is not None

    def layers(self, device: torch.device | str | None = None) -> Layers:
        if not self.fp8_weights:
            return Layers(ops=cast(Ops, nn), device=device)
        ops = SimpleNamespace(Linear=FP8Linear, LayerNorm=nn.LayerNorm, Conv1d=nn.Conv1d, Conv2d=nn.Conv2d)
        return Layers(ops=cast(Ops, ops), device=device)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", torch.float32),
        Precision("bf16", torch.bfloat16),
        Precision("fp16", torch.float16),
        Precision("fp8", torch.bfloat16, fp8_weights=True),
    )
}
_ALIASES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "fp8_e4m3fn": "fp8"}


def get_precision(value: Precision | torch.dtype | str) -> Precision:
    """A precision as it is, by its name or torch's, or for a torch type. Raises ``InputError`` for an unknown
    name."""
    if isinstance(value, Precision):
        return value
    name = str(value).removeprefix("torch.")
    name = _ALIASES.get(name, name)
    check_choice(name, PRECISIONS, "precision")
    return PRECISIONS[name]


AUTO = "auto"
UNTRIED_DEVICES = ("mps", "xpu")
"""On which no run is known."""


def choose_device(name: str) -> torch.device:
    """A device by its name, such as ``cuda:1``, which becomes CUDA's current one; ``auto`` is CUDA, else the
    CPU. Raises ``InputError`` for one that is not here."""
    counts = {"cuda": max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 0}
    counts["mps"] = int(torch.backends.mps.is_available())
    counts["xpu"] = torch.xpu.device_count() if torch.xpu.is_available() else 0
    here = ["cpu", *(f"{kind}:{n}" if n else kind for kind, count in counts.items() for n in range(count))]
    wanted = ("cuda" if counts["cuda"] else "cpu") if name == AUTO else name.removesuffix(":0")
    if wanted not in here:
        raise InputError(
            "This device is not available.",
            found=f"--device {name}",
            expected=" or ".join(here),
            fix=f"choose one of these, or remove --device{_why_no_cuda(name)}",
        )
    device = torch.device(wanted)
    if device.type == "cuda" and ":" in wanted:
        torch.cuda.set_device(device)  # kernels and streams are made on the current one
    if device.type in UNTRIED_DEVICES:
        logger.warning(f"{device.type} is untried: --trial shows within minutes whether everything runs")
    return device


def _why_no_cuda(name: str) -> str:
    missing = name.startswith("cuda") and not cast(Any, torch).backends.cuda.is_built()
    return "; for a GPU install PyTorch with CUDA: this one has none" * missing


def computes_bf16(device: torch.device) -> bool:
    """Whether the device itself does: on cards before Ampere PyTorch emulates it, without fast attention."""
    if device.type == "cuda":
        with suppress(AssertionError, RuntimeError), torch.cuda.device(device):  # no driver answers
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def choose_precision(name: str, device: torch.device) -> Precision:
    """A precision by name for a device; ``auto``, and fp8's computation, are fp16 where it computes no bf16.
    Raises ``InputError`` for an unknown name, and if the device cannot hold its weights."""
    precision = get_precision("bf16" if name == AUTO else name)
    if (name == AUTO or precision.fp8_weights) and not computes_bf16(device):
        computed = PRECISIONS["fp16"]
        precision = replace(precision, compute=computed.compute) if precision.fp8_weights else computed
        logger.warning(
            "this GPU does not compute bf16, in which the released model was trained: computing in fp16, and "
            "T5 in fp32. That is untried: --trial shows whether frames come out; if not, use --dtype fp32"
        )
    check_device(precision, device)
    return precision


def check_device(precision: Precision, device: torch.device) -> None:
    """Raise ``InputError`` if the device cannot hold a precision's weights."""
    if precision.fp8_weights and device.type not in ("cpu", "cuda") and not supports_fp8(device):
        raise InputError(
            f"The device {device.type} cannot hold {precision.name} weights.",
            found=f"{precision.name} on {device.type}, where this torch has no e4m3",
            expected="a device with e4m3: any NVIDIA GPU, or the CPU",
            fix="use bf16",
        )


def supports_fp8(device: torch.device) -> bool:
    """Whether an e4m3 number survives a trip to the device. Raises ``RuntimeError`` if memory runs out."""
    try:
        return float(torch.ones(1).to(FP8).to(device).float()) == 1.0
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        return False


def default_scales(network: nn.Module) -> dict[str, Tensor]:
    """A scale of 1 for every fp8 layer of a network, by name."""
    modules = cast("Iterable[tuple[str, nn.Module]]", network.named_modules())
    return {f"{name}.weight_scale": torch.ones(()) for name, m in modules if isinstance(m, FP8Linear)}


def add_missing_scales(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**default_scales(network), **state}


def choose_threads(noted: str, warn: Callable[[str], object]) -> int:
    """The number of threads to compute a job with whose earlier run ``noted`` one; torch's own if that is no
    number. ``warn`` gets a sentence if it is too large."""
    here = torch.get_num_threads()
    threads = int(noted) if re.fullmatch(r"[1-9]\d{0,3}", noted, re.ASCII) else here
    if threads <= max(MAX_THREADS, os.cpu_count() or 1):
        return threads
    begun = f"this video was begun with {threads} threads, which are too many here; with {here}"
    warn(f"{begun}, {MAY_DIFFER}")
    return here


def describe_machine(device: torch.device, dtype: torch.dtype) -> str:
    """What computes frames on ``device``, as far as software can say: elsewhere they may differ by rounding.

    A processor's libraries choose their instructions by its model, and environment variables change that; so
    for a processor the last word is a hash of what they compute in float32 and ``dtype``.
    """
    if device.type == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounding = hash_text("".join(map(hash_tensor, chain(_compute(torch.float32), _compute(dtype)))))
    finally:
        torch.set_num_threads(threads)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {platform.machine()} {capability}, rounding {rounding[:8]}"


def device_name(device: torch.device) -> str:
    """A GPU's name, or the processor's with its threads."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    name = platform.processor() or platform.machine()
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = text.split("model name", 1)[1].split(":", 1)[1].split("\n", 1)[0].strip()
    return f"{name}, {torch.get_num_threads()} threads"


def _compute(dtype: torch.dtype) -> Iterator[Tensor]:
    """Fixed operations of the networks on a CPU, large enough for every library that torch hands them to."""

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(np.cos(np.arange(np.prod(shape))).reshape(shape)).to(dtype)

    heads = draw(2, 4, 96, 64)
    yield F.scaled_dot_product_attention(heads, heads, heads)
    yield F.linear(draw(300, 320), draw(200, 320), draw(200))
    yield F.conv1d(draw(1, 64, 400), draw(64, 64, 3))
    yield F.conv2d(draw(1, 32, 32, 32), draw(32, 32, 3, 3))
    yield F.conv3d(draw(1, 16, 4, 24, 24), draw(16, 16, 3, 3, 3))
    yield F.layer_norm(draw(96, 64), (64,))
    yield F.gelu(draw(3000), approximate="tanh")
    yield draw(40, 80).softmax(-1)
    yield draw(3000).abs().sqrt().exp()
