"""Joint self-attention and cross-attention; keys and values can be prepared ahead.

B batch, T latent frames, M text tokens, N video tokens, D width, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrunkConfig
from .embeddings import Rotary
from .kernels.eager import merge_heads, split_heads
from .layers import Layers, is_plain

QK_EPS = 1e-6


class KV(NamedTuple):
    """Keys and values [B, H, N, head_dim], keys already normalised."""

    k: Tensor
    v: Tensor


class FoldedKV(NamedTuple):
    """Keys [1, H, n, head_dim] of a few constant tokens, and each head's values, multiplied by the output
    layer, [H * n, D]. Attention is then probabilities times ``values``; the output layer's bias is added to
    the first head's, whose probabilities add up to 1."""

    k: Tensor
    values: Tensor


class SpeakersKV(NamedTuple):
    """Keys and values of each of P speakers, and how much of every token's attention is each one's: shares
    [P, B or 1, T or 1, tokens of a frame, 1], which add up to 1 at every token."""

    speakers: tuple[KV | FoldedKV, ...]
    shares: Tensor


AnyKV = KV | FoldedKV | SpeakersKV


class JointAttention(nn.Module):
    """Text and video attend to themselves and to the reference tokens (facts 3.2-3.5). Reference tokens are
    keys and values only: the original computes their queries and discards the rows. Text and reference tokens
    are not rotated."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        width = config.width
        self.to_q, self.to_k, self.to_v = (layers.linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([layers.linear(width, width)])
        self.norm_q, self.norm_k = (layers.norm(config.head_dim, QK_EPS) for _ in range(2))
        self.attention, self.kernels = layers.attention, layers.kernels
        self.heads = config.heads

    def forward(
        self, tokens: Tensor, rotary: Rotary, reference: KV | None, *, return_text: bool = True
    ) -> Tensor:
        """Normed text and video [B, M + N, D] -> same shape, or [B, N, D] without ``return_text``."""
        kernels, heads, tables = self.kernels, self.heads, (rotary.cos, rotary.sin)
        if reference is None:
            k = kernels.qk_norm_rope(self.norm_k, self.to_k(tokens), heads, *tables)
            v = self.to_v(tokens)
        else:
            k = kernels.qk_norm_rope(self.norm_k, self.to_k(tokens), heads, *tables, reference.k)
            v = kernels.linear_concat(self.to_v, tokens, merge_heads(reference.v))
        if not return_text:
            tokens, rotary = tokens[:, rotary.text_tokens :], rotary.video
        q = kernels.qk_norm_rope(self.norm_q, self.to_q(tokens), heads, rotary.cos, rotary.sin)
        return self.to_out[0](merge_heads(self.attention(q, k, split_heads(v, heads))))

    def project(self, tokens: Tensor) -> KV:
        """Keys and values of normed tokens [B, N, D], not rotated: of the reference features."""
        k, v = (split_heads(layer(tokens), self.heads) for layer in (self.to_k, self.to_v))
        return KV(self.norm_k(k), v)


class CrossAttention(nn.Module):
    """Video tokens attend to the face or audio tokens of their latent frame (facts 3, cross-attention). As in
    the original, q and k are normed by the block's *self*-attention norms (parameters of the methods), all
    queries are rotated by latent frame 0's rows, and keys are not rotated. With several speakers each one's
    attention counts by its share of the token; shares add up to 1, so one output layer does for the sum."""

    def __init__(self, config: TrunkConfig, token_dim: int, layers: Layers) -> None:
        super().__init__()
        self.to_q = layers.linear(config.width, config.width)
        self.to_k, self.to_v = (layers.linear(token_dim, config.width) for _ in range(2))
        self.to_out = nn.ModuleList([layers.linear(config.width, config.width)])
        self.attention, self.kernels = layers.attention, layers.kernels
        self.read_parameters = layers.parameters
        self.heads = config.heads

    def forward(
        self, video: Tensor, kv: AnyKV, norm_q: nn.Module, rotary: Rotary, residual: Tensor
    ) -> Tensor:
        """Normed video [B, T*n, D] -> attention added to ``residual``, [B, T*n, D], which it may overwrite.
        ``rotary`` has frame 0's n rows; ``kv`` has a batch of B*T, or of 1 for all frames."""
        batch, tokens, _ = video.shape
        per_frame = len(rotary.cos)
        frames = video.reshape(batch * tokens // per_frame, per_frame, -1)
        q = self.kernels.qk_norm_rope(norm_q, self.to_q(frames), self.heads, rotary.cos, rotary.sin)
        if isinstance(kv, FoldedKV):
            return add_folded_attention(residual, q, kv)
        if isinstance(kv, KV):
            return residual + self.to_out[0](self._attend(q, kv)).reshape(batch, tokens, -1)
        mixed: Tensor | None = None
        for each, share in zip(kv.speakers, kv.shares, strict=True):
            if isinstance(each, FoldedKV):
                residual = add_folded_attention(residual, q, each, share)
            else:
                part = self._attend(q, each).view(batch, -1, per_frame, video.shape[2]) * share
                mixed = part if mixed is None else mixed + part
        if mixed is None:
            return residual
        return residual + self.to_out[0](mixed.flatten(0, 1)).reshape(batch, tokens, -1)

    def _attend(self, q: Tensor, kv: KV) -> Tensor:
        """Queries [B*T, H, n, head_dim] -> [B*T, n, D], before the output layer."""
        k, v = (side.expand(len(q), -1, -1, -1) for side in kv)
        return merge_heads(self.attention(q, k, v))

    def project(self, tokens: Tensor, norm_k: nn.Module) -> KV:
        """Keys and values of face or audio tokens [B, N, token_dim]."""
        k, v = (split_heads(layer(tokens), self.heads) for layer in (self.to_k, self.to_v))
        return KV(norm_k(k), v)

    @property
    def foldable(self) -> bool:
        return is_plain(self.to_out[0])

    def fold(self, tokens: Tensor, norm_k: nn.Module) -> FoldedKV:
        """Fold the output layer into the values of tokens [1, n, token_dim] that all frames share."""
        k, v = self.project(tokens, norm_k)
        with self.read_parameters(self.to_out[0], v) as (weight, bias):
            by_head = weight.view(len(weight), self.heads, -1).permute(1, 2, 0)
            values = torch.matmul(v[0], by_head)
            values[0] += bias
            return FoldedKV(k, values.flatten(0, 1))


def add_folded_attention(residual: Tensor, q: Tensor, kv: FoldedKV, share: Tensor | None = None) -> Tensor:
    """Residual [B, N, D] + attention of queries [F, H, N/F*B, head_dim], after the output layer, times a
    speaker's share of every token, if there are several. Without gradients the residual is overwritten: the
    product adds to it, and nothing of its size is made."""
    _, heads, count, _ = kv.k.shape
    scores = F.linear(merge_heads(q), block_diagonal(kv.k[0] * q.shape[-1] ** -0.5))
    # in 16 bits, too, softmax computes in float32 and rounds once
    probabilities = scores.view(-1, heads, count).softmax(dim=-1).flatten(1)
    if share is not None:
        batch, tokens = len(residual), share.shape[-2]
        probabilities = (probabilities.view(batch, -1, tokens, heads * count) * share).flatten(0, 2)
    stream = residual.reshape(-1, residual.shape[-1])
    if torch.is_grad_enabled():
        return torch.addmm(stream, probabilities, kv.values).view(residual.shape)
    return stream.addmm_(probabilities, kv.values).view(residual.shape)


def block_diagonal(k: Tensor) -> Tensor:
    """Keys [H, n, head_dim] -> [H * n, H * head_dim], zero where the heads differ: all heads' scores are then
    one product, which reads the queries as they are."""
    heads, count, channels = k.shape
    blocks = k.new_zeros(heads, count, heads, channels)
    blocks.diagonal(dim1=0, dim2=2).copy_(k.permute(1, 2, 0))
    return blocks.view(heads * count, heads * channels)
