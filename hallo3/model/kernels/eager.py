"""The kernels as torch operations: with gradients, with any host's layers, on any device.

B batch, M text tokens, N video tokens, R reference tokens, D width, H heads, d head channels, S timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

Parameters = Callable[[nn.Module, Tensor], AbstractContextManager[tuple[Tensor, Tensor]]]
"""Layer, tensor -> the layer's weight and bias in the tensor's type and on its device, while the context is
entered: a host may move them elsewhere afterwards."""


def dense(layer: nn.Module, like: Tensor) -> AbstractContextManager[tuple[Tensor, Tensor]]:
    """``Parameters`` of torch's layers; a layer that stores them in another form has a method of this
    name."""
    own = getattr(layer, "dense", None)
    if own is not None:
        return nullcontext(own(like))
    known = cast(Any, layer)
    return nullcontext((known.weight.to(like), known.bias.to(like)))


class Kernels:
    """What a block does between its matrix products, each step a torch operation that rounds to the compute
    type. Layers are modules of any host."""

    name = "plain"

    def adaln_modulate(self, norm: nn.Module, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Norm and modulation of video [B, N, D] and text [B, M, D] -> one sequence [B, M + N, D], text
        first. ``modulation`` [S, 6, D] has video's shift and scale at 0 and 1, text's at 3 and 4."""
        m = modulation
        parts = modulate(norm(text), m[:, 3:4], m[:, 4:5]), modulate(norm(video), m[:, 0:1], m[:, 1:2])
        return torch.cat(parts, dim=1)

    def qk_norm_rope(
        self, norm: nn.Module, x: Tensor, heads: int, cos: Tensor, sin: Tensor, tail: Tensor | None = None
    ) -> Tensor:
        """Norm of each head of x [B, N, D], rotated by cos and sin [N, d] -> [B, H, N, d]; ``tail``
        [1, H, R, d] is appended unchanged."""
        x = rotate(norm(x.unflatten(-1, (heads, -1))), cos[:, None], sin[:, None])
        if tail is not None:
            x = torch.cat((x, tail.transpose(1, 2).expand(len(x), -1, -1, -1)), dim=1)
        return x.transpose(1, 2)  # heads are neighbours in memory, so that merging them copies nothing

    def linear_concat(self, linear: nn.Module, x: Tensor, tail: Tensor) -> Tensor:
        """Linear of x [B, N, D], with ``tail`` [1, R, D] appended -> [B, N + R, D]."""
        return torch.cat((linear(x), tail.expand(len(x), -1, -1)), dim=1)

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        """x + gate * update: [B, N, D] with a gate [S, 1, D]."""
        return x + gate * update

    def gated_residual_norm(
        self, norm: nn.Module, x: Tensor, update: Tensor, gate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """:meth:`gated_residual`, and its norm."""
        x = self.gated_residual(x, update, gate)
        return x, norm(x)

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Linear, then tanh-approximated GELU (exact GELU moves the goldens by 2.9e-4), in place if no
        gradient needs its input."""
        hidden = linear(x)
        if torch.is_grad_enabled():
            return nn.functional.gelu(hidden, approximate="tanh")
        return cast(Any, torch.ops.aten).gelu_(hidden, approximate="tanh")


PLAIN = Kernels()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, N, D], shift and scale [S, 1, D]; S is B or 1."""
    return x * (1 + scale) + shift


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of x [..., N, d]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    rotated = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return x * cos + rotated * sin


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, H*d] -> [B, H, N, d]."""
    batch, count, _ = tokens.shape
    return tokens.reshape(batch, count, heads, -1).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H*d]."""
    return tokens.transpose(1, 2).flatten(-2)
