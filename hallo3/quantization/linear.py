"""Layers whose weights are held in eight bits, and those that multiply in eight bits too.

A product of rows x [M, K] and a weight w [N, K] in eight bits is the product of their numbers, times the
scale of x's row and the scale of w's row. x's scales are found while it computes, so every row is by itself:
what else is in a batch does not matter. It is an approximation (``docs/measurements/products.json``).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import is_out_of_memory
from .quantize import FP8, INT8, by_rows

AT_ONCE = 1 << 25
"""Elements that are rounded, or made, at once: those in between in float32 or int32 take 128 MiB each."""
_MATRICES = cast(Any, torch)  # the two products have no public names yet


class EightBitLinear(nn.Linear):
    """A Linear whose weight may be held in eight bits, each of its numbers divided by ``weight_scale``: one
    number, or one an output row. A weight of another type is used as it is."""

    rows: ClassVar[bool] = False
    weight_scale: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight.requires_grad_(False)  # whole numbers cannot have a gradient
        scales = (self.out_features,) if self.rows else ()
        self.register_buffer("weight_scale", torch.ones(scales, device=options.get("device")))

    @property
    def eight_bit(self) -> bool:
        """Whether the weight is held in eight bits."""
        return self.weight.dtype in (FP8, INT8)

    @property
    def offset(self) -> Tensor | None:
        """The bias [N], if there is one."""
        return cast("Tensor | None", self.bias)

    def dense(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weight [N, K] as it is in effect, and the bias [N], in ``like``'s type and place."""
        weight = self.weight
        if self.eight_bit:
            scale = self.weight_scale.float()
            weight = weight.float() * (scale[:, None] if scale.ndim else scale)
        bias = self.offset
        return weight.to(like), None if bias is None else bias.to(like)


class ScaledLinear(EightBitLinear):
    """Multiplied back in the type of what comes in: eight bits save memory, the product is a plain one."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``; the parameter's name is torch's."""
        weight, bias = self.dense(input) if self.eight_bit else (self.weight, self.bias)
        return F.linear(input, weight, bias)


class ProductLinear(EightBitLinear, ABC):
    """A Linear that rounds what comes in to eight bits, a scale a row, and multiplies in eight bits. The
    result is scaled and biased in float32 and rounded once, to the type of what came in.

    ``number`` is the type it multiplies in, of which the device wants ``least`` rows, and widths of whole
    ``step``s.
    """

    rows = True
    number: ClassVar[torch.dtype]
    step: ClassVar[int]
    least: ClassVar[int]

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``; the parameter's name is torch's."""
        if not self.eight_bit:
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        made = rows.new_empty(len(rows), self.out_features)
        count = max(self.least, AT_ONCE // max(self.in_features, self.out_features))
        for start in range(0, len(rows), count):
            made[start : start + count] = self._result(rows[start : start + count])
        return made.reshape(*input.shape[:-1], self.out_features)

    def _result(self, rows: Tensor) -> Tensor:
        """Rows [M, K] -> [M, N], in float32 or rounded to their type already."""
        numbers, scales = by_rows(rows, self.number)
        made = self._product(*self._fitted(numbers)).float()  # a product in whole numbers is copied here
        made = made[: len(rows), : self.out_features]
        made.mul_(scales).mul_(self.weight_scale)
        bias = self.offset
        return made if bias is None else made.add_(bias)

    def _fitted(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides with as many zeros as the device wants; networks of a real size need none."""
        rows = max(0, self.least - len(numbers))
        inner, outer = -self.in_features % self.step, -self.out_features % self.step
        weight = self.weight
        if inner or rows:
            numbers = F.pad(numbers, (0, inner, 0, rows))
        if inner or outer:
            weight = F.pad(weight, (0, inner, 0, outer))
        return numbers, weight

    @abstractmethod
    def _product(self, numbers: Tensor, weight: Tensor) -> Tensor:
        """Numbers [M, K] and [N, K] in eight bits -> their product [M, N], float32 or int32."""


class Int8Linear(ProductLinear):
    """In whole numbers, summed up exactly in int32."""

    number, step, least = INT8, 8, 17

    def _product(self, numbers: Tensor, weight: Tensor) -> Tensor:
        multiply: Callable[..., Tensor] = _MATRICES._int_mm
        return multiply(numbers, weight.t())


class Fp8Linear(ProductLinear):
    """In e4m3, summed up in float32. Where the device can, it scales by rows and rounds to bf16 itself."""

    number, step, least = FP8, 16, 1

    def _result(self, rows: Tensor) -> Tensor:
        if rows.dtype != torch.bfloat16 or not scales_by_rows(rows.device):
            return super()._result(rows)
        numbers, scales = by_rows(rows, self.number)
        numbers, weight = self._fitted(numbers)
        outer = len(weight) - self.out_features
        of_weight, bias = F.pad(self.weight_scale, (0, outer)), self.offset
        if bias is not None:
            bias = F.pad(bias, (0, outer)).to(rows.dtype)
        scaled = {"scale_a": scales, "scale_b": of_weight[None], "bias": bias}
        return _multiply(numbers, weight, rows.dtype, **scaled)[:, : self.out_features]

    def _product(self, numbers: Tensor, weight: Tensor) -> Tensor:
        one = torch.ones((), device=numbers.device)
        return _multiply(numbers, weight, torch.float32, scale_a=one, scale_b=one)


class RowsAfterLinear(Fp8Linear):
    """The same for a device that should scale by rows and does not."""

    def _result(self, rows: Tensor) -> Tensor:
        return ProductLinear._result(self, rows)


def _multiply(numbers: Tensor, weight: Tensor, dtype: torch.dtype, **scaled: Tensor | None) -> Tensor:
    """Sums are kept in full: the faster ones of some GPUs lose as much as e4m3 itself does."""
    multiply: Callable[..., Tensor] = _MATRICES._scaled_mm
    return multiply(numbers, weight.t(), out_dtype=dtype, use_fast_accum=False, **scaled)


def scales_by_rows(device: torch.device) -> bool:
    """Whether fp8 products should take a scale a row on this device: compute capability 8.9 and 9, but not on
    Windows, where torch is built without. Elsewhere rows are scaled after the product, and where
    :func:`multiplies_by_rows` says that it is not so."""
    if device.type != "cuda" or sys.platform == "win32":
        return False
    major, minor = torch.cuda.get_device_capability(device)
    return major == 9 or (major, minor) == (8, 9)


def multiplies_by_rows(device: torch.device) -> bool:
    """Whether a product of 16 x 16 with a scale a row runs on a device and is right. Raises ``RuntimeError``
    if memory runs out."""
    x = torch.linspace(-1, 1, 256).reshape(16, 16) * torch.logspace(-1, 1, 16)[:, None]
    numbers, scales = by_rows(x, FP8)
    weight, of_weight = by_rows(x.t().contiguous(), FP8)
    left, right = numbers.float() * scales, (weight.float() * of_weight).t()
    scaled = {"scale_a": scales.to(device), "scale_b": of_weight.reshape(1, -1).to(device), "bias": None}
    try:
        found = _multiply(numbers.to(device), weight.to(device), torch.bfloat16, **scaled)
        off = (found.float().cpu() - left @ right).abs()
        return bool((off <= 2.0**-8 * (left.abs() @ right.abs())).all())  # twice what bf16 rounds by
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # what torch says where it cannot
        if is_out_of_memory(error):
            raise
        return False
