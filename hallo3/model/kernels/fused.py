"""The four as one operation each: every input read once, float32 inside, rounded once.

Each is an operation of torch's own (``torch.ops.hallo3``): profilers name it, the meta device knows its
shapes. On CUDA it is a Triton program (:mod:`hallo3.kernels.programs`); elsewhere the same arithmetic in
torch's operations, which is slow and there for comparison. Where a gradient may be asked, the plain ones run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .eager import PLAIN, dense, rotate


class Fused:
    """See :class:`hallo3.kernels.plain.Kernels`. Where a gradient may be asked, the plain ones run."""

    name = "fused"

    def modulated(self, norm: nn.Module, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Norm + modulation."""
        if torch.is_grad_enabled():
            return PLAIN.modulated(norm, video, text, modulation)
        weight, bias = dense(norm, video)
        return _modulated(video, text, weight, bias, modulation, float(cast(Any, norm).eps))

    def rotated(
        self, norm: nn.Module, x: Tensor, heads: int, cos: Tensor, sin: Tensor, tail: Tensor | None = None
    ) -> Tensor:
        """Query/key norm + rotation."""
        if torch.is_grad_enabled():
            return PLAIN.rotated(norm, x, heads, cos, sin, tail)
        weight, bias = dense(norm, x)
        behind = None if tail is None else tail.transpose(1, 2)
        eps = float(cast(Any, norm).eps)
        return _rotated(x, weight, bias, cos, sin, behind, heads, eps).transpose(1, 2)

    def followed(self, linear: nn.Module, x: Tensor, tail: Tensor) -> Tensor:
        """A Linear whose product is written where it is wanted, in front of ``tail``."""
        if type(linear) is not nn.Linear or torch.is_grad_enabled():
            return PLAIN.followed(linear, x, tail)
        made = x.new_empty(len(x), x.shape[1] + tail.shape[1], linear.out_features)
        for sample, place in zip(x, made, strict=True):
            torch.addmm(linear.bias, sample, linear.weight.t(), out=place[: len(sample)])
        made[:, x.shape[1] :] = tail
        return made

    def gated(self, x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        """Gate + residual."""
        return PLAIN.gated(x, update, gate) if torch.is_grad_enabled() else _gated(x, update, gate)

    def activated(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Linear + GELU as its epilogue; layers that do more than multiply and add are called as they are."""
        if type(linear) is not nn.Linear or torch.is_grad_enabled():
            return PLAIN.activated(linear, x)
        return _activated(x, linear.weight, linear.bias)


@torch.library.custom_op("hallo3::modulated", mutates_args=())
def _modulated(
    video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float
) -> Tensor:
    made = video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])
    if made.is_cuda:
        from . import triton_kernels as programs

        with programs.placed(made):
            programs.modulated(made, video, text, weight, bias, modulation, eps)
        return made
    for x, first, out in ((text, 3, made[:, : text.shape[1]]), (video, 0, made[:, text.shape[1] :])):
        normed = F.layer_norm(x.float(), (x.shape[-1],), weight.float(), bias.float(), eps)
        shift, scale = modulation[:, first, None].float(), modulation[:, first + 1, None].float()
        out.copy_(normed * (1 + scale) + shift)
    return made


@_modulated.register_fake
def _(video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float) -> Tensor:
    del weight, bias, modulation, eps
    return video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])


@torch.library.custom_op("hallo3::rotated", mutates_args=())
def _rotated(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    count, behind = x.shape[1], 0 if tail is None else tail.shape[1]
    made = x.new_empty(x.shape[0], count + behind, heads, x.shape[2] // heads)
    if tail is not None:
        made[:, count:] = tail
    if made.is_cuda:
        from . import triton_kernels as programs

        with programs.placed(made):
            programs.rotated(made, x, weight, bias, cos, sin, eps)
        return made
    each = x.view(*x.shape[:2], heads, -1).float()
    normed = F.layer_norm(each, (each.shape[-1],), weight.float(), bias.float(), eps)
    made[:, :count] = rotate(normed, cos.float()[:, None], sin.float()[:, None])
    return made


@_rotated.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    del weight, bias, cos, sin, eps
    count = x.shape[1] + (0 if tail is None else tail.shape[1])
    return x.new_empty(x.shape[0], count, heads, x.shape[2] // heads)


@torch.library.custom_op("hallo3::gated", mutates_args=())
def _gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    made = x.new_empty(x.shape)
    if made.is_cuda:
        from . import triton_kernels as programs

        with programs.placed(made):
            programs.gated(made, x, update, gate)
        return made
    return made.copy_(x.float() + gate.float() * update.float())


@_gated.register_fake
def _(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    del update, gate
    return x.new_empty(x.shape)


@torch.library.custom_op("hallo3::activated", mutates_args=())
def _activated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.is_cuda:  # cuBLASLt's epilogue; torch takes the tanh form there, and only there
        epilogue = cast(Callable[..., Tensor], getattr(torch, "_addmm_activation"))  # noqa: B009
        return epilogue(bias, x.flatten(0, -2), weight.t(), use_gelu=True).view(*x.shape[:-1], -1)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


@_activated.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    del bias
    return x.new_empty(*x.shape[:-1], weight.shape[0])


FUSED = Fused()
