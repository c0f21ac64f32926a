"""Scaled fp8 (e4m3) weights: a matrix is divided by one number so that its largest element becomes 448.

torch has no such layer; torchao's is another dependency, with tensor subclasses of its own format.
A layer multiplies the weight back, in the type of its input: fp8 saves memory, not time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
MAX_FP8 = 448.0
_MIN_SCALE = torch.finfo(torch.float32).tiny  # keeps tiny matrices from being divided by 0


def fp8_scale(largest: Tensor) -> Tensor:
    """Scale of a matrix whose largest magnitude is ``largest``: float32, 1 for a matrix of zeros."""
    return torch.where(largest > 0, (largest.float() / MAX_FP8).clamp(min=_MIN_SCALE), torch.ones(()))


def to_fp8(values: Tensor, scale: Tensor) -> Tensor:
    """Divide float32 values by their scale, in place, and round to the nearest e4m3 number."""
    return values.div_(scale).clamp_(-MAX_FP8, MAX_FP8).to(FP8)


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
