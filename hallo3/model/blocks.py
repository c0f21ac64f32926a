"""Transformer blocks: CogVideoX's, and Hallo3's with cross-attention to face and audio between its halves.

B batch, T latent frames, N tokens, D width, H heads, d head channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import AudioConfig, FaceConfig, TrunkConfig
from .attention import KV, AnyKV, CrossAttention, FoldedKV, JointAttention, SpeakersKV
from .embeddings import Rotary
from .kernels.eager import modulate
from .layers import Layers

BLOCK_EPS = 1e-5
HEAD_EPS = 1e-6


class BlockModulation(NamedTuple):
    """Shift, scale, gate for video, then for text, before attention and before the MLP: [S, 6, D] each."""

    attention: Tensor
    feed_forward: Tensor


class Modulation(NamedTuple):
    """Modulation of S timesteps: one item per block, and the head's [S, 2, D]."""

    blocks: Sequence[BlockModulation]
    head: Tensor

    def step(self, index: int) -> Modulation:
        one = slice(index, index + 1)
        blocks = (BlockModulation(*(part[one] for part in block)) for block in self.blocks)
        return Modulation(tuple(blocks), self.head[one])


class AdaLayerNorm(nn.Module):
    """The norm before the output head; its eps is 1e-6, all others' 1e-5 (facts 2.5)."""

    rows, eps = 2, HEAD_EPS

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.linear = layers.linear(config.time_dim, self.rows * config.width)
        self.norm = layers.norm(config.width, self.eps)
        self.kernels = layers.kernels

    def modulation(self, time: Tensor) -> Tensor:
        """Time vectors [S, time_dim] -> [S, rows, D]."""
        return self.linear(F.silu(time)).unflatten(-1, (self.rows, -1))

    def video(self, video: Tensor, modulation: Tensor) -> Tensor:
        """Normed, modulated video tokens: also the reference network's features."""
        return modulate(self.norm(video), modulation[:, 0:1], modulation[:, 1:2])


class AdaLayerNormZero(AdaLayerNorm):
    """One LayerNorm for video and text, with separate modulation and gates (facts 3.1)."""

    rows, eps = 6, BLOCK_EPS

    def forward(self, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Norm and modulate video [B, N, D] and text [B, M, D] -> one sequence [B, M + N, D], text first."""
        return self.kernels.adaln_modulate(self.norm, video, text, modulation)


class GELU(nn.Module):
    """Linear, then tanh-approximated GELU."""

    def __init__(self, inputs: int, outputs: int, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.linear(inputs, outputs)
        self.kernels = layers.kernels

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.linear_gelu(self.proj, x)


class FeedForward(nn.Module):
    """The MLP; ``net`` is numbered as diffusers numbers it (1 is a dropout there)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        inner = config.width * config.feed_forward_ratio
        gelu, linear = GELU(config.width, inner, layers), layers.linear(inner, config.width)
        self.net = nn.ModuleList([gelu, nn.Identity(), linear])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class BlockConditions(NamedTuple):
    """Reference [1, H, R, d], face [1 or B*T, H, n, d] (folded if all frames share it) and audio [B*T, H, n,
    d]; face and audio of several speakers with their shares."""

    reference: KV
    face: AnyKV
    audio: KV | SpeakersKV


class Block(nn.Module):
    """Joint attention, then a joint MLP, each after its own adaptive norm (facts 3)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(config, layers)
        self.attn1 = JointAttention(config, layers)
        self.norm2 = AdaLayerNormZero(config, layers)
        self.ff = FeedForward(config, layers)
        self.kernels = layers.kernels

    def modulation(self, time: Tensor) -> BlockModulation:
        return BlockModulation(self.norm1.modulation(time), self.norm2.modulation(time))

    def attend(
        self,
        video: Tensor,
        text: Tensor,
        modulation: BlockModulation,
        rotary: Rotary,
        reference: KV | None,
        *,
        return_text: bool = True,
        norm: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """First half: text and video attend to themselves and to the reference tokens. Without
        ``return_text`` the text stays as it is. Third is video, normed if there is a ``norm``."""
        m = modulation.attention
        out = self.attn1(self.norm1(video, text, m), rotary, reference, return_text=return_text)
        return self._add_gated(video, text, out, m, norm)

    def feed_forward(
        self, video: Tensor, text: Tensor, modulation: BlockModulation, *, return_text: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Second half: one MLP for text and video."""
        m = modulation.feed_forward
        out = self.ff(self.norm2(video, text if return_text else text[:, :0], m))
        return self._add_gated(video, text, out, m)[:2]

    def _add_gated(
        self, video: Tensor, text: Tensor, out: Tensor, m: Tensor, norm: nn.Module | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add updates [B, M + N, D], or video's alone [B, N, D], with their gates."""
        kernels, first = self.kernels, out.shape[1] - video.shape[1]
        added = video, out[:, first:], m[:, 2:3]
        if norm is None:
            video = normed = kernels.gated_residual(*added)
        else:
            video, normed = kernels.gated_residual_norm(norm, *added)
        text = kernels.gated_residual(text, out[:, :first], m[:, 5:6]) if first else text
        return video, text, normed


class CogVideoXBlock(Block):
    """The reference network's block: CogVideoX as it was published."""

    def forward(
        self, video: Tensor, text: Tensor, modulation: BlockModulation, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        video, text, _ = self.attend(video, text, modulation, rotary, None)
        return self.feed_forward(video, text, modulation)


class Hallo3Block(Block):
    """CogVideoX's block with two ungated cross-attentions between its halves: face first, then audio."""

    def __init__(self, config: TrunkConfig, face: FaceConfig, audio: AudioConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.norm_face = layers.norm(config.width, BLOCK_EPS)
        self.attn_face = CrossAttention(config, face.token_dim, layers)
        self.norm_audio = layers.norm(config.width, BLOCK_EPS)
        self.attn_audio = CrossAttention(config, audio.token_dim, layers)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        modulation: BlockModulation,
        rotary: Rotary,
        conditions: BlockConditions,
        *,
        return_text: bool = True,
    ) -> tuple[Tensor, Tensor]:
        video, text, normed = self.attend(
            video,
            text,
            modulation,
            rotary,
            conditions.reference,
            return_text=return_text,
            norm=self.norm_face,
        )
        norm_q, frame_0 = self.attn1.norm_q, rotary.frame_0
        video = self.attn_face(normed, conditions.face, norm_q, frame_0, video)
        del normed
        video = self.attn_audio(self.norm_audio(video), conditions.audio, norm_q, frame_0, video)
        return self.feed_forward(video, text, modulation, return_text=return_text)

    def face_kv(self, tokens: Tensor) -> KV:
        """Of the face tokens [1, n, token_dim]."""
        return self.attn_face.project(tokens, self.attn1.norm_k)

    def fold_output_projection(self, tokens: Tensor) -> FoldedKV:
        """Of one face for all frames and samples; folded with the output layer."""
        return self.attn_face.fold(tokens, self.attn1.norm_k)

    def audio_kv(self, tokens: Tensor) -> KV:
        """Of the audio tokens [T, n, token_dim], one row per latent frame."""
        return self.attn_audio.project(tokens, self.attn1.norm_k)
