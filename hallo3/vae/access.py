"""How the decoder reaches a layer's weights: a host that casts or streams them lends its own way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .onednn import OneDNNConvolutions

Held = tuple[Tensor, Tensor | None]
"""A layer's weight and bias."""


def own_parameters(layer: nn.Module, like: Tensor) -> AbstractContextManager[Held]:
    """The layer's parameters as they are."""
    del like
    known = cast(Any, layer)
    return nullcontext((known.weight, known.bias))


def convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """torch's own 3D convolution at stride 1, by oneDNN where that is quicker."""
    with OneDNNConvolutions():
        return torch.conv3d(signal, weight, bias, (1, 1, 1), padding, (1, 1, 1), 1)


@dataclass(frozen=True, slots=True)
class Access:
    """``parameters`` lends a layer's weight and bias for a ``with`` block, in the type and on the device of a
    tensor; ``convolve`` is the convolution they are used in."""

    parameters: Callable[[nn.Module, Tensor], AbstractContextManager[Held]] = own_parameters
    convolve: Callable[[Tensor, Tensor, Tensor | None, tuple[int, int, int]], Tensor] = convolve
