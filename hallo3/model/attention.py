"""Joint self-attention and cross-attention, with keys and values as values one can hold.

B batch, T latent frames, N tokens, D width, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import TrunkConfig
from ..ops import Layers
from .embeddings import Rotary, rotate

QK_EPS = 1e-6


class KV(NamedTuple):
    """Keys and values [B, H, N, head_dim], keys already normalised."""

    k: Tensor
    v: Tensor


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
        self.attention = layers.attention
        self.heads = config.heads

    def forward(
        self, video: Tensor, text: Tensor, rotary: Rotary, reference: KV | None
    ) -> tuple[Tensor, Tensor]:
        """Normed video [B, N, D] and text [B, M, D] -> what each takes in, same shapes."""
        q = torch.cat((self.query(text), rotate(self.query(video), rotary)), dim=2)
        k_text, v_text = self.project(text)
        k_video, v_video = self.project(video)
        keys, values = [k_text, rotate(k_video, rotary)], [v_text, v_video]
        if reference is not None:
            keys.append(reference.k.expand(len(video), -1, -1, -1))
            values.append(reference.v.expand(len(video), -1, -1, -1))
        heard = self.attention(q, torch.cat(keys, dim=2), torch.cat(values, dim=2))
        out = self.to_out[0](merge_heads(heard))
        return out[:, text.shape[1] :], out[:, : text.shape[1]]

    def query(self, tokens: Tensor) -> Tensor:
        """Normalised queries [B, H, N, head_dim], not rotated."""
        return self.norm_q(split_heads(self.to_q(tokens), self.heads))

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
        self.attention = layers.attention
        self.heads = config.heads

    def forward(self, video: Tensor, kv: KV, norm_q: nn.Module, rotary: Rotary) -> Tensor:
        """Normed video [B, T*n, D] -> [B, T*n, D]. ``rotary`` has frame 0's n rows, ``kv`` a batch of B*T
        (each frame its own tokens) or of 1 (the same for all)."""
        batch, tokens, _ = video.shape
        per_frame = len(rotary.cos)
        frames = video.reshape(batch * tokens // per_frame, per_frame, -1)
        q = rotate(norm_q(split_heads(self.to_q(frames), self.heads)), rotary)
        k, v = (side.expand(len(frames), -1, -1, -1) for side in kv)
        out = self.to_out[0](merge_heads(self.attention(q, k, v)))
        return out.reshape(batch, tokens, -1)

    def project(self, tokens: Tensor, norm_k: nn.Module) -> KV:
        """Keys and values of face or audio tokens [B, N, token_dim]."""
        return KV(
            norm_k(split_heads(self.to_k(tokens), self.heads)),
            split_heads(self.to_v(tokens), self.heads),
        )


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, H*d] -> [B, H, N, d]."""
    batch, count, _ = tokens.shape
    return tokens.reshape(batch, count, heads, -1).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H*d]."""
    return tokens.transpose(1, 2).flatten(-2)
