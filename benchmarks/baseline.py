"""What the original does in a step, written plainly over our networks' weights: nothing prepared, nothing
fused.

Reference tokens run through the whole joint attention, queries and all; face tokens are repeated for every
frame; adaptive norms, audio projection, keys and values are computed in every step, for both branches as
one batch. It is here to be compared with, in time and in error, and is not part of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.model.blocks import Hallo3Block
from hallo3.model.embeddings import Rotary, rotary_tables
from hallo3.model.kernels.eager import merge_heads, modulate, rotate, split_heads
from hallo3.model.layers import Attention, sdpa
from hallo3.model.transformer import Hallo3Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Reference features [1, R, D] a block, face embedding [1, E], prompt [1, M, text_dim], speech windows
    [1, F, window, layers, channels], image latents [1, C, T, H, W], timesteps [S]."""

    dit: Hallo3Transformer
    features: list[Tensor]
    face: Tensor
    prompt: Tensor
    windows: Tensor
    image_latents: Tensor
    timesteps: Tensor
    attention: Attention = sdpa

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Noisy latents -> velocities [2, C, T, H, W], the unconditional first."""
        dit, like = self.dit, self.prompt
        both = torch.cat((torch.zeros_like(like), like)), torch.cat((self.windows * 0, self.windows))
        text = dit.patch_embed.text(both[0])
        audio = dit.audio_proj(both[1]).flatten(0, 1)
        face = dit.face_proj(self.face).repeat(len(both[0]) * dit.latent.frames, 1, 1)
        pair = (
            latents.to(like).expand(2, -1, -1, -1, -1),
            self.image_latents.to(like).expand(2, -1, -1, -1, -1),
        )
        video = dit.embed(*pair)
        rotary = rotary_tables(dit.config, dit.latent).to(like)
        time = dit.time_embedding(self.timesteps[step : step + 1].to(like.device), like.dtype)
        for block, feature in zip(dit.transformer_blocks, self.features, strict=True):
            block = cast(Hallo3Block, block)
            video, text = self._attend(block, video, text, feature, time, rotary)
            video = self._cross(block, video, face, audio, rotary)
            video, text = self._feed_forward(block, video, text, time)
        return dit.head(video, dit.norm_out.modulation(time))

    def _attend(
        self, block: Hallo3Block, video: Tensor, text: Tensor, feature: Tensor, time: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        m, attn = block.norm1.modulation(time), block.attn1
        tokens = torch.cat(
            (_normed(block.norm1.norm, video, text, m), feature.expand(len(video), -1, -1)), dim=1
        )
        q, k, v = (split_heads(linear(tokens), attn.heads) for linear in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        first, end = text.shape[1], text.shape[1] + video.shape[1]

        def turned(x: Tensor) -> Tensor:
            middle = rotate(x[:, :, first:end], rotary.cos, rotary.sin)
            return torch.cat((x[:, :, :first], middle, x[:, :, end:]), dim=2)

        out = attn.to_out[0](merge_heads(self.attention(turned(q), turned(k), v)))
        return video + m[:, 2:3] * out[:, first:end], text + m[:, 5:6] * out[:, :first]

    def _cross(
        self, block: Hallo3Block, video: Tensor, face: Tensor, audio: Tensor, rotary: Rotary
    ) -> Tensor:
        cos, sin = rotary.frame_0.cos, rotary.frame_0.sin
        for attn, norm, tokens in (
            (block.attn_face, block.norm_face, face),
            (block.attn_audio, block.norm_audio, audio),
        ):
            frames = norm(video).reshape(len(tokens), len(cos), -1)
            q = rotate(block.attn1.norm_q(split_heads(attn.to_q(frames), attn.heads)), cos, sin)
            k = block.attn1.norm_k(split_heads(attn.to_k(tokens), attn.heads))
            heard = self.attention(q, k, split_heads(attn.to_v(tokens), attn.heads))
            video = video + attn.to_out[0](merge_heads(heard)).reshape(video.shape)
        return video

    def _feed_forward(
        self, block: Hallo3Block, video: Tensor, text: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        m, first = block.norm2.modulation(time), text.shape[1]
        hidden = F.gelu(block.ff.net[0].proj(_normed(block.norm2.norm, video, text, m)), approximate="tanh")
        out = block.ff.net[2](hidden)
        return video + m[:, 2:3] * out[:, first:], text + m[:, 5:6] * out[:, :first]


def _normed(norm: torch.nn.Module, video: Tensor, text: Tensor, m: Tensor) -> Tensor:
    parts = modulate(norm(text), m[:, 3:4], m[:, 4:5]), modulate(norm(video), m[:, 0:1], m[:, 1:2])
    return torch.cat(parts, dim=1)
