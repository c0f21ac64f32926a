"""Layers, attention and kernels are injected into the networks, so that a host can use its own: ``torch.nn``
satisfies :class:`Ops`; ComfyUI's casting namespaces do, too. No network moves or casts itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.eager import PLAIN, Kernels, Parameters, dense

T = TypeVar("T")
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Full softmax attention: q [B, H, N, D], k and v [B, H, M, D] -> [B, H, N, D], scale 1/sqrt(D)."""


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


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's result follows from its parameters: its forward is neither replaced nor hooked."""
    own = vars(layer)
    return "forward" not in own and not own["_forward_hooks"]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Builds the layers of a network. ``parameters`` reads a layer's weight and bias as it computes with
    them."""

    ops: Ops = nn
    attention: Attention = sdpa
    kernels: Kernels = PLAIN
    parameters: Parameters = dense
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @property
    def _factory(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype}

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """With bias."""
        return self.ops.Linear(inputs, outputs, **self._factory)

    def norm(self, width: int, eps: float) -> nn.Module:
        """With weight and bias."""
        return self.ops.LayerNorm(width, eps=eps, **self._factory)

    def conv1d(self, inputs: int, outputs: int, size: int) -> nn.Module:
        """The stride is the kernel size."""
        return self.ops.Conv1d(inputs, outputs, size, stride=size, **self._factory)

    def conv2d(self, inputs: int, outputs: int, size: int) -> nn.Module:
        """The stride is the kernel size."""
        return self.ops.Conv2d(inputs, outputs, size, stride=size, **self._factory)

    def table(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, **self._factory), requires_grad=False)


class LazyParameters(Sequence[T]):
    """A sequence that computes an item each time it is read: used instead of a tuple to save memory."""

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
