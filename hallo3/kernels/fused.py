"""The four as one kernel each: every input is read once, the arithmetic is float32, and is rounded once.

Each is an operation of torch's own (``torch.ops.hallo3``): profilers name it, the meta device knows its
shapes. On CUDA its body is compiled by inductor, which writes one Triton kernel for it; elsewhere the body
runs as it stands, which is slow and there for comparison. No gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parameters import dense
from .plain import PLAIN


class Fused:
    """See :class:`hallo3.kernels.plain.Kernels`; raises ``RuntimeError`` of torch's where a gradient is
    asked."""

    name = "fused"

    def modulated(self, norm: nn.Module, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Norm + modulation."""
        weight, bias = dense(norm, video)
        return _modulated(video, text, weight, bias, modulation, float(cast(Any, norm).eps))

    def rotated(
        self, norm: nn.Module, x: Tensor, heads: int, cos: Tensor, sin: Tensor, tail: Tensor | None = None
    ) -> Tensor:
        """Query/key norm + rotation."""
        weight, bias = dense(norm, x)
        behind = None if tail is None else tail.transpose(1, 2)
        eps = float(cast(Any, norm).eps)
        return _rotated(x, weight, bias, cos, sin, behind, heads, eps).transpose(1, 2)

    def followed(self, linear: nn.Module, x: Tensor, tail: Tensor) -> Tensor:
        """A Linear whose product is written where it is wanted, in front of ``tail``."""
        if type(linear) is not nn.Linear:
            return PLAIN.followed(linear, x, tail)
        made = x.new_empty(len(x), x.shape[1] + tail.shape[1], linear.out_features)
        for sample, place in zip(x, made, strict=True):
            torch.addmm(linear.bias, sample, linear.weight.t(), out=place[: len(sample)])
        made[:, x.shape[1] :] = tail
        return made

    def gated(self, x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        """Gate + residual."""
        return _gated(x, update, gate)

    def activated(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Linear + GELU as its epilogue; layers that do more than multiply and add are called as they are."""
        if type(linear) is not nn.Linear:
            return PLAIN.activated(linear, x)
        return _activated(x, linear.weight, linear.bias)


@torch.library.custom_op("hallo3::modulated", mutates_args=())
def _modulated(
    video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float
) -> Tensor:
    return _body(_modulated_body, video)(video, text, weight, bias, modulation, eps)


@_modulated.register_fake
def _(video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float) -> Tensor:
    del weight, bias, modulation, eps
    return video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])


def _modulated_body(
    video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float
) -> Tensor:
    m, w, b = modulation.float(), weight.float(), bias.float()

    def part(x: Tensor, first: int) -> Tensor:
        normed = F.layer_norm(x.float(), (x.shape[-1],), w, b, eps)
        return (normed * (1 + m[:, first + 1, None]) + m[:, first, None]).to(x.dtype)

    return torch.cat((part(text, 3), part(video, 0)), dim=1)


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
    return _body(_rotated_body, x)(x, weight, bias, cos, sin, tail, heads, eps)


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


def _rotated_body(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    each = x.view(*x.shape[:2], heads, -1).float()
    normed = F.layer_norm(each, (each.shape[-1],), weight.float(), bias.float(), eps)
    turned = torch.stack((-normed[..., 1::2], normed[..., 0::2]), dim=-1).flatten(-2)
    made = (normed * cos.float()[:, None] + turned * sin.float()[:, None]).to(x.dtype)
    return made if tail is None else torch.cat((made, tail.to(x.dtype).expand(len(x), -1, -1, -1)), dim=1)


@torch.library.custom_op("hallo3::gated", mutates_args=())
def _gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return _body(_gated_body, x)(x, update, gate)


@_gated.register_fake
def _(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    del update, gate
    return x.new_empty(x.shape)


def _gated_body(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return (x.float() + gate.float() * update.float()).to(x.dtype)


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


def _body(body: Callable[..., Tensor], like: Tensor) -> Callable[..., Tensor]:
    return compiled(body) if like.is_cuda else body


@cache
def compiled(body: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A body as inductor's kernel; compiled when it is first called. Once a process, as torch's own are."""
    return torch.compile(body, fullgraph=True)


FUSED = Fused()
BODIES = (_modulated_body, _rotated_body, _gated_body)
"""What inductor is given."""
