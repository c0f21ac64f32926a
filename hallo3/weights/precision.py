"""In which numbers weights are held and computed with, as a value: the networks' mathematics does not know.

fp8 is scaled e4m3: a matrix is divided by one number so that its largest element becomes 448, and multiplied
back when its layer is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..ops import Layers, Ops

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of e4m3."""

_MATRICES = re.compile(
    r"transformer_blocks\.\d+\.(attn1|attn_face|attn_audio|ff)\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)\.weight"
)


@dataclass(frozen=True, slots=True)
class Precision:
    """``compute``: the type of everything that flows; ``eight_bit``: whether the blocks' matrices are held as
    scaled fp8, half the memory of 16 bits."""

    name: str
    compute: torch.dtype
    eight_bit: bool = False

    def held(self, name: str) -> bool:
        """Whether the tensor of this name is held in fp8: the attention's and feed-forward's matrices are;
        norms, modulations, embeddings and projections are too few or too delicate."""
        return self.eight_bit and _MATRICES.fullmatch(name) is not None

    def layers(self, device: torch.device | str | None = None) -> Layers:
        """The building kit of a network that is held so."""
        ops = cast(Ops, _EIGHT_BIT) if self.eight_bit else nn
        return Layers(ops=cast(Ops, ops), device=device)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", torch.float32),
        Precision("bf16", torch.bfloat16),
        Precision("fp16", torch.float16),
        Precision("fp8", torch.bfloat16, eight_bit=True),
    )
}
_ALIASES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "fp8_e4m3fn": "fp8"}


def precision_named(name: str) -> Precision:
    """A precision by its name or torch's. Raises ``InputError`` for a name that is none."""
    found = PRECISIONS.get(_ALIASES.get(name, name))
    if found is None:
        raise InputError(
            "There is no such precision.",
            found=repr(name),
            expected=" or ".join(PRECISIONS),
            do="choose one of these",
        )
    return found


def precision_of(numbers: Precision | torch.dtype | str) -> Precision:
    """A precision as it is, by name, or for a torch type. Raises ``InputError``."""
    if isinstance(numbers, Precision):
        return numbers
    return precision_named(str(numbers).removeprefix("torch."))


def fp8_scale(largest: Tensor) -> Tensor:
    """The scale of a matrix whose largest magnitude is given: float32, 1 for a matrix of zeros."""
    least = torch.finfo(torch.float32).tiny  # so small a matrix is nothing but must not be divided by 0
    return torch.where(largest > 0, (largest.float() / LARGEST).clamp(min=least), torch.ones(()))


def to_fp8(values: Tensor, scale: Tensor) -> Tensor:
    """Numbers in float32 divided by their scale, in place, and then in e4m3: the nearest, none beyond the
    largest."""
    return values.div_(scale).clamp_(-LARGEST, LARGEST).to(FP8)


class ScaledLinear(nn.Linear):
    """A Linear whose weight may be fp8 with a scale; it is multiplied back in the type of what comes in."""

    weight_scale: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("weight_scale", torch.ones((), device=options.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``; the parameter's name is torch's."""
        weight = self.weight
        if weight.dtype == FP8:
            weight = (weight.float() * self.weight_scale.float()).to(input.dtype)
        return F.linear(input, weight, self.bias)


_EIGHT_BIT = SimpleNamespace(Linear=ScaledLinear, LayerNorm=nn.LayerNorm, Conv1d=nn.Conv1d, Conv2d=nn.Conv2d)


def filled(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with scales of 1 for the layers that are not held in fp8."""
    return {**{name: torch.ones(()) for name in scales_of(network) if name not in state}, **state}


def scales_of(network: nn.Module) -> Iterator[str]:
    """The names of the scales that a network's layers have."""
    modules = cast("Iterable[tuple[str, nn.Module]]", network.named_modules())
    return (f"{name}.weight_scale" for name, module in modules if isinstance(module, ScaledLinear))
