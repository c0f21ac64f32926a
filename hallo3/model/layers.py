"""What a network is built from: layers and attention are injected, so any host can lend its own.

``torch.nn`` satisfies :class:`Ops` as it stands; ComfyUI's cast namespaces do too. Nothing here, and no
network, moves or casts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.eager import PLAIN, Kernels, dense

T = TypeVar("T")
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Full softmax attention: q [B, H, N, D], k and v [B, H, M, D] -> [B, H, N, D], scale 1/sqrt(D)."""
Parameters = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""A layer -> its weight and bias in a tensor's type and place."""


class Ops(Protocol):
    """A namespace of layer classes with torch.nn's constructors."""

    @property
    def Linear(self) -> Callable[..., nn.Module]: ...
    @property
    def LayerNorm(self) -> Callable[..., nn.Module]: ...
    @property
    def Conv1d(self) -> Callable[..., nn.Module]: ...
    @property
    def Conv2d(self) -> Callable[..., nn.Module]: ...


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own attention."""
    return F.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The building kit handed to every network: whose layers, attention and kernels, where and in what type.

    ``parameters`` reads a layer's weight and bias as they are computed with, for what is prepared of them.
    """

    ops: Ops = nn
    attention: Attention = sdpa
    kernels: Kernels = PLAIN
    parameters: Parameters = dense
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @property
    def _place(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype}

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """Linear with bias; every one of Hallo3's has it."""
        return self.ops.Linear(inputs, outputs, **self._place)

    def norm(self, width: int, eps: float) -> nn.Module:
        """LayerNorm with weight and bias."""
        return self.ops.LayerNorm(width, eps=eps, **self._place)

    def conv1d(self, inputs: int, outputs: int, size: int) -> nn.Module:
        """Conv1d whose stride is its kernel."""
        return self.ops.Conv1d(inputs, outputs, size, stride=size, **self._place)

    def conv2d(self, inputs: int, outputs: int, size: int) -> nn.Module:
        """Conv2d whose stride is its kernel."""
        return self.ops.Conv2d(inputs, outputs, size, stride=size, **self._place)

    def table(self, *shape: int) -> nn.Parameter:
        """A learned table."""
        return nn.Parameter(torch.empty(*shape, **self._place), requires_grad=False)


class LazyParameters(Sequence[T]):
    """A sequence that makes an item each time it is read: what a small card uses instead of a tuple."""

    def __init__(self, make: Callable[[int], T], length: int) -> None:
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._make(i) for i in range(self._length)[index])
        return self._make(range(self._length)[index])

    def __iter__(self) -> Iterator[T]:
        return (self._make(index) for index in range(self._length))
