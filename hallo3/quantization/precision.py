"""In which numbers weights are held and computed with, as a value: the networks' mathematics does not know.

fp8 is scaled e4m3: a matrix is divided by one number so that its largest element becomes 448, and multiplied
back when its layer is used. fp8-products and int8 have a scale an output row, and multiply in eight bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError, is_out_of_memory
from ..messages import logger
from ..model.layers import Layers, Ops
from .linear import (
    EightBitLinear,
    Fp8Linear,
    Int8Linear,
    RowsAfterLinear,
    ScaledLinear,
    multiplies_by_rows,
    scales_by_rows,
)
from .quantize import FP8, INT8, by_rows, fp8_scale, to_fp8

_MATRICES = re.compile(
    r"transformer_blocks\.\d+\.(attn1|attn_face|attn_audio|ff)\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)\.weight"
)


@dataclass(frozen=True, slots=True)
class QuantizationScheme:
    """How matrices are held in eight bits: in which numbers, and by which layer they are used. ``capability``
    is the least a GPU must have to multiply in them; None: it need not."""

    number: torch.dtype
    layer: type[EightBitLinear]
    capability: tuple[int, int] | None = None

    def keeps(self, number: torch.dtype, scale: Tensor | None, rows: int) -> bool:
        """Whether a matrix of so many rows, stored in these numbers with this scale, is held as it is."""
        scales = 1 if scale is None else scale.numel()
        return number == self.number and (scales == 1 or (self.layer.rows and scales == rows))

    def scales(self, scale: Tensor | None, rows: int) -> Tensor:
        """A stored scale as the layer has it: one number, or [rows]."""
        one = torch.ones(()) if scale is None else scale.float()
        return one.reshape(-1).expand(rows).clone() if self.layer.rows else one.reshape(())

    def made(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """A matrix [N, K] of float32, which may be overwritten, in these numbers; and its scale or scales."""
        if self.layer.rows:
            numbers, scales = by_rows(values, self.number)
            return numbers, scales.reshape(-1)
        scale = fp8_scale(values.abs().max())
        return to_fp8(values, scale), scale


@dataclass(frozen=True, slots=True)
class Precision:
    """``compute``: the type of everything that flows; ``held_as``: how the blocks' matrices are held, if not
    in that type: half the memory of 16 bits."""

    name: str
    compute: torch.dtype
    held_as: QuantizationScheme | None = None

    @property
    def approximate(self) -> bool:
        """Whether products are made in eight bits: what flows is rounded too, not only the weights."""
        return self.held_as is not None and self.held_as.capability is not None

    def held(self, name: str) -> bool:
        """Whether the tensor of this name is held in eight bits: the attention's and feed-forward's matrices
        are; norms, modulations, embeddings and projections are too few or too delicate."""
        return self.held_as is not None and _MATRICES.fullmatch(name) is not None

    def layers(self, device: torch.device | str | None = None) -> Layers:
        """The building kit of a network that is held so."""
        if self.held_as is None:
            return Layers(ops=cast(Ops, nn), device=device)
        ops = SimpleNamespace(
            Linear=self.held_as.layer, LayerNorm=nn.LayerNorm, Conv1d=nn.Conv1d, Conv2d=nn.Conv2d
        )
        return Layers(ops=cast(Ops, ops), device=device)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", torch.float32),
        Precision("bf16", torch.bfloat16),
        Precision("fp16", torch.float16),
        Precision("fp8", torch.bfloat16, QuantizationScheme(FP8, ScaledLinear)),
        Precision("fp8-products", torch.bfloat16, QuantizationScheme(FP8, Fp8Linear, (8, 9))),
        Precision("int8", torch.bfloat16, QuantizationScheme(INT8, Int8Linear, (8, 0))),
    )
}
_ALIASES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "fp8_e4m3fn": "fp8"}


def get_precision(name: str) -> Precision:
    """A precision by its name or torch's. Raises ``InputError`` for a name that is none."""
    found = PRECISIONS.get(_ALIASES.get(name, name))
    if found is None:
        raise InputError(
            "There is no such precision.",
            found=repr(name),
            expected=" or ".join(PRECISIONS),
            fix="choose one of these",
        )
    return found


def as_precision(numbers: Precision | torch.dtype | str) -> Precision:
    """A precision as it is, by name, or for a torch type. Raises ``InputError``."""
    if isinstance(numbers, Precision):
        return numbers
    return get_precision(str(numbers).removeprefix("torch."))


def check_device(precision: Precision, device: torch.device) -> None:
    """Refuse a device that cannot hold a precision's numbers, or cannot make its products. Raises
    ``InputError``."""
    eight_bits = precision.held_as is not None and precision.held_as.number == FP8
    other = device.type not in ("cpu", "cuda")
    if eight_bits and other and not holds_fp8(device):
        raise InputError(
            "This device cannot hold these numbers.",
            found=f"{precision.name} on the device {device.type}, where this torch has no e4m3",
            expected="a device that has e4m3: any NVIDIA GPU, or the CPU",
            fix="use bf16",
        )
    if not precision.approximate or device.type == "cpu":
        return
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if precision.name in products_of(capability):
            return
        found = "a GPU of compute capability {}.{}".format(*capability)
    else:
        found = "an AMD GPU" if device.type == "cuda" else f"the device {device.type}"
    least = precision.held_as.capability if precision.held_as else None
    raise InputError(
        "This device cannot multiply in these numbers.",
        found=f"{precision.name} on {found}",
        expected="an NVIDIA GPU of compute capability {}.{} or more, or the CPU".format(*(least or ())),
        fix="use bf16" if other else "use bf16, or fp8, which only holds the weights in eight bits",
    )


def holds_fp8(device: torch.device) -> bool:
    """Whether this torch has e4m3 on a device, by a number that is sent there and turned back. Raises
    ``RuntimeError`` if memory runs out."""
    try:
        return float(torch.ones(1).to(FP8).to(device).float()) == 1.0
    except (RuntimeError, TypeError) as error:  # no such type there, or nothing that turns it back
        if is_out_of_memory(error):
            raise
        return False


def fit_to_device(precision: Precision, device: torch.device) -> Precision:
    """The precision as a device makes its products: where it should scale them by rows and, tried with a
    small one, does not, they are scaled afterwards, which is said by a warning. The numbers differ by
    rounding."""
    held = precision.held_as
    if (
        held is None
        or held.layer is not Fp8Linear
        or not scales_by_rows(device)
        or multiplies_by_rows(device)
    ):
        return precision
    logger.warning(
        f"{precision.name}: products that are scaled by rows do not run on this GPU with this torch; rows "
        "are scaled after the product, which is slower"
    )
    return replace(precision, held_as=replace(held, layer=RowsAfterLinear))


def products_of(capability: tuple[int, int]) -> list[str]:
    """The precisions whose products an NVIDIA GPU of this compute capability makes."""
    wanted = {p.name: p.held_as.capability for p in PRECISIONS.values() if p.held_as}
    return [name for name, least in wanted.items() if least is not None and capability >= least]


def add_missing_scales(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with scales of 1 for the layers that are not held in eight bits."""
    return {**unscaled(network), **state}


def unscaled(network: nn.Module) -> dict[str, Tensor]:
    """The scales that a network's layers have, by name, all of them 1."""
    modules = cast("Iterable[tuple[str, nn.Module]]", network.named_modules())
    return {
        f"{name}.weight_scale": torch.ones(module.weight_scale.shape)
        for name, module in modules
        if isinstance(module, EightBitLinear)
    }
