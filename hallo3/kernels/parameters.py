"""A layer's weight and bias as a kernel reads them."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


def dense(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias in the type and place of ``like``. A layer that holds them in another form says so by a
    method of this name."""
    own = getattr(layer, "dense", None)
    if own is not None:
        return own(like)
    known = cast(Any, layer)
    return known.weight.to(like), known.bias.to(like)
