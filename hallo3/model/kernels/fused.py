"""Fused kernels: each reads its inputs once, computes in float32 and rounds once.

Each is a torch operation (``torch.ops.hallo3``), so that profilers name it and the meta device knows its
shape. On CUDA it is a Triton kernel (``triton_kernels.py``); elsewhere the same arithmetic in torch
operations, slow and only for comparison. The eager kernels run where a gradient may be needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .eager import Kernels, Parameters, dense, rotate


class Fused(Kernels):
    """``parameters`` reads a layer's weight and bias, which are used instead of calling it."""

    name = "fused"

    def __init__(self, parameters: Parameters = dense) -> None:
        self._parameters = parameters

    def fits(self, x: Tensor, layer: nn.Module | None = None) -> bool:
        """Whether x can be computed here; otherwise it is computed by the eager kernels. Subclasses of
        ``nn.Linear`` are called as they are."""
        del x
        return not torch.is_grad_enabled() and (not isinstance(layer, nn.Linear) or type(layer) is nn.Linear)

    def adaln_modulate(self, norm: nn.Module, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        if not self.fits(video, norm):
            return super().adaln_modulate(norm, video, text, modulation)
        with self._parameters(norm, video) as (weight, bias):
            return _adaln_modulate(video, text, weight, bias, modulation, cast(Any, norm).eps)

    def qk_norm_rope(
        self, norm: nn.Module, x: Tensor, heads: int, cos: Tensor, sin: Tensor, tail: Tensor | None = None
    ) -> Tensor:
        if not self.fits(x, norm):
            return super().qk_norm_rope(norm, x, heads, cos, sin, tail)
        tail, eps = None if tail is None else tail.transpose(1, 2), cast(Any, norm).eps
        with self._parameters(norm, x) as (weight, bias):
            return _qk_norm_rope(x, weight, bias, cos, sin, tail, heads, eps).transpose(1, 2)

    def linear_concat(self, linear: nn.Module, x: Tensor, tail: Tensor) -> Tensor:
        """The product is written in place, before ``tail``."""
        if not self.fits(x, linear):
            return super().linear_concat(linear, x, tail)
        out = x.new_empty(len(x), x.shape[1] + tail.shape[1], tail.shape[2])
        with self._parameters(linear, x) as (weight, bias):
            for sample, rows in zip(x, out, strict=True):
                torch.addmm(bias, sample, weight.t(), out=rows[: len(sample)])
        out[:, x.shape[1] :] = tail
        return out

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        if not self.fits(x):
            return super().gated_residual(x, update, gate)
        return _gated_residual(x, update, gate)

    def gated_residual_norm(
        self, norm: nn.Module, x: Tensor, update: Tensor, gate: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.fits(x, norm):
            return super().gated_residual_norm(norm, x, update, gate)
        with self._parameters(norm, x) as (weight, bias):
            return _gated_residual_norm(x, update, gate, weight, bias, cast(Any, norm).eps)

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        """GELU is the product's epilogue."""
        if not self.fits(x, linear):
            return super().linear_gelu(linear, x)
        with self._parameters(linear, x) as (weight, bias):
            return _linear_gelu(x, weight, bias)


def _launch(kernel: str, out: Tensor, *inputs: Any) -> Tensor:
    from . import triton_kernels

    with torch.cuda.device(out.device):
        getattr(triton_kernels, kernel)(out, *inputs)
    return out


def _new_joint(video: Tensor, text: Tensor, *_: Any) -> Tensor:
    return video.new_empty(video.shape[0], text.shape[1] + video.shape[1], video.shape[2])


def _new_heads(x: Tensor, *others: Any) -> Tensor:
    tail, heads = others[4:6]
    count = x.shape[1] + (0 if tail is None else tail.shape[1])
    return x.new_empty(x.shape[0], count, heads, x.shape[2] // heads)


def _new_like(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _new_pair(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _new_linear(x: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("hallo3::adaln_modulate", mutates_args=())
def _adaln_modulate(
    video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float
) -> Tensor:
    out = _new_joint(video, text)
    if out.is_cuda:
        return _launch("adaln_modulate", out, video, text, weight, bias, modulation, eps)
    for x, first, part in ((text, 3, out[:, : text.shape[1]]), (video, 0, out[:, text.shape[1] :])):
        normed = F.layer_norm(x.float(), (x.shape[-1],), weight.float(), bias.float(), eps)
        shift, scale = modulation[:, first, None].float(), modulation[:, first + 1, None].float()
        part.copy_(normed * (1 + scale) + shift)
    return out


@torch.library.custom_op("hallo3::qk_norm_rope", mutates_args=())
def _qk_norm_rope(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail: Tensor | None,
    heads: int,
    eps: float,
) -> Tensor:
    count, out = x.shape[1], _new_heads(x, weight, bias, cos, sin, tail, heads)
    if tail is not None:
        out[:, count:] = tail
    if out.is_cuda:
        return _launch("qk_norm_rope", out, x, weight, bias, cos, sin, eps)
    split = x.view(*x.shape[:2], heads, -1).float()
    normed = F.layer_norm(split, (split.shape[-1],), weight.float(), bias.float(), eps)
    out[:, :count] = rotate(normed, cos.float()[:, None], sin.float()[:, None])
    return out


@torch.library.custom_op("hallo3::gated_residual", mutates_args=())
def _gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    out = _new_like(x)
    if out.is_cuda:
        return _launch("gated_residual", out, x, update, gate)
    return out.copy_(x.float() + gate.float() * update.float())


@torch.library.custom_op("hallo3::gated_residual_norm", mutates_args=())
def _gated_residual_norm(
    x: Tensor, update: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    out, normed = _new_pair(x)
    if out.is_cuda:
        _launch("gated_residual", out, x, update, gate, (normed, weight, bias, eps))
        return out, normed
    out.copy_(x.float() + gate.float() * update.float())
    normed.copy_(F.layer_norm(out.float(), (x.shape[-1],), weight.float(), bias.float(), eps))
    return out, normed


@torch.library.custom_op("hallo3::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.is_cuda:  # cuBLASLt's epilogue; torch uses the tanh form there, and only there
        epilogue = cast(Callable[..., Tensor], getattr(torch, "_addmm_activation"))  # noqa: B009
        return epilogue(bias, x.flatten(0, -2), weight.t(), use_gelu=True).view(*x.shape[:-1], -1)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


_adaln_modulate.register_fake(_new_joint)
_qk_norm_rope.register_fake(_new_heads)
_gated_residual.register_fake(_new_like)
_gated_residual_norm.register_fake(_new_pair)
_linear_gelu.register_fake(_new_linear)

FUSED = Fused()
