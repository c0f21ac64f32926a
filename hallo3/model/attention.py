"""Joint self-attention and cross-attention, with keys and values as values one can hold.

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
from .layers import Layers

QK_EPS = 1e-6


class KV(NamedTuple):
    """Keys and values [B, H, N, head_dim], keys already normalised."""

    k: Tensor
    v: Tensor


class FoldedKV(NamedTuple):
    """Keys [1, H, n, head_dim], and every head's values behind the output layer [H * n, D], with its bias
    [D].

    Of few tokens that stay the same: what attention puts out is their probabilities times ``values``.
    """

    k: Tensor
    values: Tensor
    bias: Tensor


class JointAttention(nn.Module):
    """Text and video attend to themselves and to the reference tokens (facts 3.2-3.5).

    Reference tokens are keys and values only: the original computes their queries and throws the rows
    away. Text and reference tokens are not rotated.
    """

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        width = config.width
        self.to_q = layers.linear(width, width)
        self.to_k = layers.linear(width, width)
        self.to_v = layers.linear(width, width)
        self.to_out = nn.ModuleList([layers.linear(width, width)])
        self.norm_q = layers.norm(config.head_dim, QK_EPS)
        self.norm_k = layers.norm(config.head_dim, QK_EPS)
        self.attention, self.kernels = layers.attention, layers.kernels
        self.heads = config.heads

    def forward(
        self, tokens: Tensor, rotary: Rotary, reference: KV | None, *, text_follows: bool = True
    ) -> Tensor:
        """Normed text and video [B, M + N, D] -> what each takes in, same shape; without the text's rows if
        no text follows."""
        k, v = self._keys_and_values(tokens, rotary, reference)
        if not text_follows:
            tokens, rotary = tokens[:, rotary.text_tokens :], rotary.video
        q = self.kernels.rotated(self.norm_q, self.to_q(tokens), self.heads, rotary.cos, rotary.sin)
        return self.to_out[0](merge_heads(self.attention(q, k, v)))

    def _keys_and_values(self, tokens: Tensor, rotary: Rotary, reference: KV | None) -> KV:
        """Of the tokens, rotated, and behind them those of the reference tokens."""
        turn, k = (rotary.cos, rotary.sin), self.to_k(tokens)
        if reference is None:
            rotated = self.kernels.rotated(self.norm_k, k, self.heads, *turn)
            return KV(rotated, split_heads(self.to_v(tokens), self.heads))
        rotated = self.kernels.rotated(self.norm_k, k, self.heads, *turn, reference.k)
        values = self.kernels.followed(self.to_v, tokens, merge_heads(reference.v))
        return KV(rotated, split_heads(values, self.heads))

    def project(self, tokens: Tensor) -> KV:
        """Keys and values of normed tokens [B, N, D], not rotated; prepares the reference features."""
        return KV(
            self.norm_k(split_heads(self.to_k(tokens), self.heads)),
            split_heads(self.to_v(tokens), self.heads),
        )


class CrossAttention(nn.Module):
    """Video tokens attend to the face or audio tokens of their latent frame (facts 3, cross-attention).

    Quirks kept: q and k pass the block's *self*-attention norms (handed in, not owned), queries are
    rotated by latent frame 0's rows whatever their frame, keys are not rotated.
    """

    def __init__(self, config: TrunkConfig, token_dim: int, layers: Layers) -> None:
        super().__init__()
        self.to_q = layers.linear(config.width, config.width)
        self.to_k = layers.linear(token_dim, config.width)
        self.to_v = layers.linear(token_dim, config.width)
        self.to_out = nn.ModuleList([layers.linear(config.width, config.width)])
        self.attention, self.kernels = layers.attention, layers.kernels
        self.parameters_of = layers.parameters
        self.heads = config.heads

    def forward(self, video: Tensor, kv: KV | FoldedKV, norm_q: nn.Module, rotary: Rotary) -> Tensor:
        """Normed video [B, T*n, D] -> [B, T*n, D]. ``rotary`` has frame 0's n rows, ``kv`` a batch of B*T
        (each frame its own tokens) or of 1 (the same for all)."""
        batch, tokens, _ = video.shape
        per_frame = len(rotary.cos)
        frames = video.reshape(batch * tokens // per_frame, per_frame, -1)
        q = self.kernels.rotated(norm_q, self.to_q(frames), self.heads, rotary.cos, rotary.sin)
        if isinstance(kv, FoldedKV):
            out = folded_attention(q, kv)
        else:
            k, v = (side.expand(len(frames), -1, -1, -1) for side in kv)
            out = self.to_out[0](merge_heads(self.attention(q, k, v)))
        return out.reshape(batch, tokens, -1)

    def project(self, tokens: Tensor, norm_k: nn.Module) -> KV:
        """Keys and values of face or audio tokens [B, N, token_dim]."""
        return KV(
            norm_k(split_heads(self.to_k(tokens), self.heads)),
            split_heads(self.to_v(tokens), self.heads),
        )

    @property
    def foldable(self) -> bool:
        """Whether the output layer only multiplies and adds: others may have given it another forward, or
        hooks."""
        layer = vars(self.to_out[0])
        return "forward" not in layer and not layer["_forward_hooks"]

    def fold(self, tokens: Tensor, norm_k: nn.Module) -> FoldedKV:
        """Few tokens [1, n, token_dim] that all frames share, with the output layer's product taken ahead."""
        k, v = self.project(tokens, norm_k)
        weight, bias = self.parameters_of(self.to_out[0], v)
        by_head = weight.view(len(weight), self.heads, -1).permute(1, 2, 0)
        return FoldedKV(k, torch.matmul(v[0], by_head).flatten(0, 1), bias)


def folded_attention(q: Tensor, kv: FoldedKV) -> Tensor:
    """Queries [F, H, N, head_dim] -> what they take in, behind the output layer [F, N, D]."""
    scores = torch.matmul(q, kv.k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    shares = scores.float().softmax(dim=-1).to(q.dtype)
    return F.linear(shares.transpose(1, 2).flatten(-2), kv.values.t(), kv.bias)
