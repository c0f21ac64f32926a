"""The four as one operation each: float32 inside, rounded once, nothing larger than what comes in and goes out.

Each is an operation of torch's own (``torch.ops.hallo3``): profilers name it, the meta device knows its shapes.
On CUDA its body is compiled by inductor; elsewhere the body runs as it stands, which is slow and there for
comparison. No gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
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
    made = video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])
    for x, first, out in (
        (text, 3, made[:, : text.shape[1]]),
        (video, 0, made[:, text.shape[1] :]),
    ):
        if x.shape[1]:
            shift, scale = modulation[:, first, None], modulation[:, first + 1, None]
            _run(_modulated_body, out, x, weight, bias, shift, scale, eps)
    return made


@_modulated.register_fake
def _(video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float) -> Tensor:
    del weight, bias, modulation, eps
    return video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])


def _modulated_body(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> None:
    normed = F.layer_norm(x.float(), (x.shape[-1],), weight.float(), bias.float(), eps)
    out.copy_(normed * (1 + scale.float()) + shift.float())


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
    each = x.view(*x.shape[:2], heads, -1)
    _run(_rotated_body, made[:, :count], each, weight, bias, cos[:, None], sin[:, None], eps)
    if tail is not None:
        made[:, count:] = tail
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


def _rotated_body(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Both sides of a pair are normed from x, so that nothing normed has to be kept in between."""
    x, weight, bias = x.float(), weight.float(), bias.float()
    mean = x.mean(-1, keepdim=True)
    rate = torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + eps)
    even = torch.arange(x.shape[-1], device=x.device) % 2 == 0

    def other(of: Tensor) -> Tensor:
        """The other one of each pair of channels."""
        return torch.where(even, of.roll(-1, -1), of.roll(1, -1))

    normed = (x - mean) * rate * weight + bias
    turned = (other(x) - mean) * rate * other(weight) + other(bias)
    out.copy_(normed * cos.float() + torch.where(even, -turned, turned) * sin.float())


@torch.library.custom_op("hallo3::gated", mutates_args=())
def _gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    made = torch.empty_like(x)
    _run(_gated_body, made, x, update, gate)
    return made


@_gated.register_fake
def _(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    del update, gate
    return torch.empty_like(x)


def _gated_body(out: Tensor, x: Tensor, update: Tensor, gate: Tensor) -> None:
    out.copy_(x.float() + gate.float() * update.float())


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


def _run(body: Callable[..., None], out: Tensor, *rest: Any) -> None:
    """A body that writes to ``out``: compiled on CUDA, as it stands elsewhere."""
    if out.is_cuda:
        compiled(body, out, *rest)
    else:
        body(out, *rest)


def compiled(body: Callable[..., None], *arguments: Any) -> None:
    """Run a body as inductor compiles it. Types, and which extents are 1, make another kernel."""
    kinds = tuple(
        (argument.dtype, *(extent == 1 for extent in argument.shape))
        for argument in arguments
        if isinstance(argument, Tensor)
    )
    variant(body, kinds)(*arguments)


@cache
def variant(body: Callable[..., None], kinds: tuple[object, ...]) -> Callable[..., None]:
    """A compiled body of its own for such arguments, so that none of them uses up another's recompilations.
    Kept once a process, as torch keeps its kernels."""
    del kinds
    known = cast(FunctionType, body)
    code = known.__code__.replace()  # compiled code is remembered by this object
    own = FunctionType(code, known.__globals__, known.__name__, known.__defaults__, known.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=True)


FUSED = Fused()
BODIES = (_modulated_body, _rotated_body, _gated_body)
"""What inductor is given."""
