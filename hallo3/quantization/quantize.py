"""Numbers in eight bits: e4m3 and whole ones, each the number divided by the scale of its matrix or row."""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
INT8 = torch.int8
LARGEST = 448.0
"""The largest number of e4m3."""
MOST = {FP8: LARGEST, INT8: 127.0}
"""What the largest magnitude of a matrix or row becomes."""
_LEAST = torch.finfo(torch.float32).tiny  # so small a row is nothing, but must not be divided by 0


def fp8_scale(largest: Tensor) -> Tensor:
    """The scale of a matrix whose largest magnitude is given: float32, 1 for a matrix of zeros."""
    return torch.where(largest > 0, (largest.float() / LARGEST).clamp(min=_LEAST), torch.ones(()))


def to_fp8(values: Tensor, scale: Tensor) -> Tensor:
    """Numbers in float32 divided by their scale, in place, and then in e4m3: the nearest, none beyond the
    largest."""
    return values.div_(scale).clamp_(-LARGEST, LARGEST).to(FP8)


def row_scales(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The scales [M, 1] of rows [M, K], float32. That of a row with a NaN or an infinity is one too, so that
    whatever is multiplied back by it shows them."""
    least, most = torch.aminmax(values, dim=-1, keepdim=True)
    return (torch.maximum(-least, most).float() / MOST[dtype]).clamp(min=_LEAST)


def by_rows(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows [M, K] in eight bits, each divided by its own scale: the nearest numbers; the scales [M, 1]."""
    scales = row_scales(values, dtype)
    divided = values.float() / scales
    if dtype == FP8:
        return divided.clamp_(-LARGEST, LARGEST).to(FP8), scales
    return divided.round_().to(dtype), scales
