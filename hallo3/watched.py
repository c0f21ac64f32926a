"""An attention that can say what ran."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .backends import AUTO, KERNELS, Backend
from .ops import Attention, sdpa


class Watched:
    """Called like any other attention, with the same numbers; whoever loads the networks owns it.

    Of several shapes the largest is told, which is the joint self-attention. For ``auto`` torch is asked once
    for every shape that is larger than all before; asking waits for nothing.
    """

    def __init__(self, attention: Attention = AUTO) -> None:
        self._attend = AUTO if attention is sdpa else attention
        self._largest, self._ran = 0, ""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = q.shape[-2] * k.shape[-2]
        if size > self._largest and not torch.compiler.is_compiling():
            self._largest, self._ran = size, self._told(q, k, v)
        return self._attend(q, k, v)

    @property
    def ran(self) -> str:
        """What ran, as "torch, flash" or "sage (approximate)"; empty if nothing did."""
        return self._ran

    def _told(self, q: Tensor, k: Tensor, v: Tensor) -> str:
        backend = self._attend
        if not isinstance(backend, Backend):
            return getattr(backend, "__name__", type(backend).__name__)
        if backend is AUTO:
            return chosen_by_torch(q, k, v)
        return f"torch, {backend.name}" if backend.name in KERNELS else backend.title


def watched(attention: Attention) -> Watched:
    """An attention with a watch; one that has a watch keeps its own."""
    return attention if isinstance(attention, Watched) else Watched(attention)


def chosen_by_torch(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The kernel that torch would choose for these, as "torch, flash"; "torch" where it does not say."""
    ask = getattr(torch, "_fused_sdp_choice", None)
    try:
        number = -1 if ask is None else int(ask(q, k, v))
    except (RuntimeError, TypeError):  # a device without a choice; another signature
        number = -1
    names = (name for name, kernel in KERNELS.items() if int(cast(Any, kernel)) == number)
    return ", ".join(("torch", *names))
