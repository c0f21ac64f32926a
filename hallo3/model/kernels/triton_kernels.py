"""Three of the kernels in Triton: each reads a row once, computes in float32, rounds once and writes it.

Imported only if Triton is installed, and compiled for the device when first called. A program is one row: a
token's channels, or its heads.
"""
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# ruff: noqa: N803  (compile-time constants are upper case in Triton)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _modulate(
    out, video, text, weight, bias, modulation, texts, tokens, width,
    video_batch, video_row, text_batch, text_row, step, part, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    batch, place = (row // tokens).to(tl.int64), row % tokens
    channel = tl.arange(0, BLOCK)
    there = channel < width
    if place < texts:
        x = tl.load(text + batch * text_batch + place.to(tl.int64) * text_row + channel, there, 0.0)
    else:
        behind = (place - texts).to(tl.int64)
        x = tl.load(video + batch * video_batch + behind * video_row + channel, there, 0.0)
    x = x.to(tl.float32)
    centred = tl.where(there, x - tl.sum(x) / width, 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(centred * centred) / width + eps)
    normed = centred * rate * tl.load(weight + channel, there, 0.0).to(tl.float32)
    normed += tl.load(bias + channel, there, 0.0).to(tl.float32)
    first = modulation + batch * step + tl.where(place < texts, 3, 0) * part + channel
    shift, scale = tl.load(first, there, 0.0).to(tl.float32), tl.load(first + part, there, 0.0).to(tl.float32)
    result = normed * (1.0 + scale) + shift
    tl.store(out + row.to(tl.int64) * width + channel, result.to(out.dtype.element_ty), there)


@triton.jit
def _rotate(
    out, x, weight, bias, cos, sin, tokens, heads, width,
    x_batch, x_row, out_batch, eps, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    batch, place = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    channel, head = tl.arange(0, BLOCK), tl.arange(0, HEADS)
    known = channel < width
    there = (head < heads)[:, None] & known[None]
    start = x + batch * x_batch + place * x_row + head[:, None] * width
    mine = tl.load(start + channel[None], there, 0.0).to(tl.float32)
    mean = tl.sum(mine, 1) / width
    centred = tl.where(known[None], mine - mean[:, None], 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    w, b = tl.load(weight + channel, known, 0.0), tl.load(bias + channel, known, 0.0)
    normed = centred * rate[:, None] * w.to(tl.float32)[None] + b.to(tl.float32)[None]
    first, second = tl.split(tl.reshape(normed, (HEADS, BLOCK // 2, 2)))  # of a pair, in a thread's registers
    turned = tl.reshape(tl.join(-second, first), (HEADS, BLOCK))
    c = tl.load(cos + place * width + channel, known, 0.0).to(tl.float32)
    s = tl.load(sin + place * width + channel, known, 0.0).to(tl.float32)
    result = (normed * c[None] + turned * s[None]).to(out.dtype.element_ty)
    target = out + batch * out_batch + place * heads * width + head[:, None] * width + channel[None]
    tl.store(target, result, there)


@triton.jit
def _gate(
    out, normed, x, update, gate, weight, bias, tokens, width,
    x_batch, x_row, update_batch, update_row, step, eps, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    batch, place = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    there = channel < width
    mine = tl.load(x + batch * x_batch + place * x_row + channel, there, 0.0).to(tl.float32)
    new = tl.load(update + batch * update_batch + place * update_row + channel, there, 0.0).to(tl.float32)
    share = tl.load(gate + batch * step + channel, there, 0.0).to(tl.float32)
    result = (mine + share * new).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * width + channel, result, there)
    if NORM:
        x = result.to(tl.float32)
        centred = tl.where(there, x - tl.sum(x) / width, 0.0)
        rate = 1.0 / tl.sqrt(tl.sum(centred * centred) / width + eps)
        scaled = centred * rate * tl.load(weight + channel, there, 0.0).to(tl.float32)
        scaled += tl.load(bias + channel, there, 0.0).to(tl.float32)
        tl.store(normed + row.to(tl.int64) * width + channel, scaled.to(normed.dtype.element_ty), there)


def adaln_modulate(
    out: Tensor, video: Tensor, text: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float
) -> None:
    """Write text [B, M, D] and video [B, N, D], modulated by [S, 6, D], to ``out`` [B, M + N, D]."""
    video, text, modulation = _contiguous_rows(video), _contiguous_rows(text), _contiguous_rows(modulation)
    batch, tokens, width = out.shape
    _modulate[(batch * tokens,)](
        out, video, text, weight, bias, modulation, text.shape[1], tokens, width,
        *video.stride()[:2], *text.stride()[:2], _sample_stride(modulation), modulation.stride(1), eps,
        BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip


def qk_norm_rope(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> None:
    """Write the heads of x [B, N, D], normed and rotated by cos and sin [N, d], to the first N rows of
    ``out`` [B, N + R, H, d]."""
    x = _contiguous_rows(x)
    batch, tokens, width = x.shape
    heads, each = out.shape[2:]
    _rotate[(batch * tokens,)](
        out, x, weight, bias, cos.contiguous(), sin.contiguous(), tokens, heads, each,
        *x.stride()[:2], out.stride(0), eps,
        HEADS=triton.next_power_of_2(heads), BLOCK=triton.next_power_of_2(each), num_warps=_warps(width),
    )  # fmt: skip


def gated_residual(
    out: Tensor,
    x: Tensor,
    update: Tensor,
    gate: Tensor,
    norm: tuple[Tensor, Tensor, Tensor, float] | None = None,
) -> None:
    """Write x + gate * update, [B, N, D] and [S, 1, D], to ``out`` [B, N, D]; with ``norm`` (a tensor like
    ``out``, weight, bias, eps) its norm to that tensor."""
    normed, weight, bias, eps = norm or (out, gate, gate, 0.0)
    x, update, gate = _contiguous_rows(x), _contiguous_rows(update), _contiguous_rows(gate)
    batch, tokens, width = out.shape
    _gate[(batch * tokens,)](
        out, normed, x, update, gate, weight, bias, tokens, width,
        *x.stride()[:2], *update.stride()[:2], _sample_stride(gate), eps, NORM=norm is not None,
        BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip


def _contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor with contiguous channels; a copy only if they are not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _sample_stride(tensor: Tensor) -> int:
    """Stride between samples; 0 if one row serves all."""
    return tensor.stride(0) if len(tensor) > 1 else 0


def _warps(width: int) -> int:
    return 8 if width > 1024 else 4
