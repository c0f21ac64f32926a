"""The two blocks: CogVideoX's, and Hallo3's, which hears a face and a voice between its halves.

B batch, T latent frames, N tokens, D width, H heads, d head channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import AudioConfig, FaceConfig, TrunkConfig
from .attention import KV, CrossAttention, FoldedKV, JointAttention
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
    """All a trunk needs to know of S timesteps: one item a block, and the head's [S, 2, D]."""

    blocks: Sequence[BlockModulation]
    head: Tensor

    def step(self, index: int) -> Modulation:
        """One of the S timesteps."""
        one = slice(index, index + 1)
        blocks = (BlockModulation(*(part[one] for part in block)) for block in self.blocks)
        return Modulation(tuple(blocks), self.head[one])


class AdaLayerNormZero(nn.Module):
    """One LayerNorm for video and text, modulated apart, with a gate for each (facts 3.1)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.linear = layers.linear(config.time_dim, 6 * config.width)
        self.norm = layers.norm(config.width, BLOCK_EPS)
        self.kernels = layers.kernels

    def modulation(self, time: Tensor) -> Tensor:
        """Time vectors [S, time_dim] -> [S, 6, D]."""
        return self.linear(F.silu(time)).unflatten(-1, (6, -1))

    def video(self, video: Tensor, modulation: Tensor) -> Tensor:
        """Normed, modulated video tokens; the reference network hands these out as its features."""
        return modulate(self.norm(video), modulation[:, 0:1], modulation[:, 1:2])

    def forward(self, video: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        """Video [B, N, D] and text [B, M, D], normed and modulated -> one sequence [B, M + N, D], text
        first."""
        return self.kernels.modulated(self.norm, video, text, modulation)


class AdaLayerNorm(nn.Module):
    """The norm before the output head; its eps is 1e-6 where all others are 1e-5 (facts 2.5)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.linear = layers.linear(config.time_dim, 2 * config.width)
        self.norm = layers.norm(config.width, HEAD_EPS)

    def modulation(self, time: Tensor) -> Tensor:
        """Time vectors [S, time_dim] -> [S, 2, D]."""
        return self.linear(F.silu(time)).unflatten(-1, (2, -1))

    def forward(self, video: Tensor, modulation: Tensor) -> Tensor:
        return modulate(self.norm(video), modulation[:, 0:1], modulation[:, 1:2])


class GELU(nn.Module):
    """Linear, then tanh-approximated GELU."""

    def __init__(self, inputs: int, outputs: int, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.linear(inputs, outputs)
        self.kernels = layers.kernels

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.activated(self.proj, x)


class FeedForward(nn.Module):
    """The MLP; ``net`` is numbered as diffusers numbers it (1 is a dropout there)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        inner = config.width * config.feed_forward_ratio
        self.net = nn.ModuleList(
            [GELU(config.width, inner, layers), nn.Identity(), layers.linear(inner, config.width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class BlockConditions(NamedTuple):
    """What a Hallo3 block hears of one guidance batch: reference [1, H, R, d], face [1 or B*T, H, n, d],
    folded where all share it, and audio [B*T, H, n, d]."""

    reference: KV
    face: KV | FoldedKV
    audio: KV


class Block(nn.Module):
    """Joint attention, then a joint MLP, each behind its own adaptive norm (facts 3)."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(config, layers)
        self.attn1 = JointAttention(config, layers)
        self.norm2 = AdaLayerNormZero(config, layers)
        self.ff = FeedForward(config, layers)
        self.kernels = layers.kernels

    def modulation(self, time: Tensor) -> BlockModulation:
        """What time vectors [S, time_dim] do to this block."""
        return BlockModulation(self.norm1.modulation(time), self.norm2.modulation(time))

    def attend(
        self,
        video: Tensor,
        text: Tensor,
        modulation: BlockModulation,
        rotary: Rotary,
        reference: KV | None,
        *,
        text_follows: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """First half: text and video attend to themselves and to the reference tokens. Text stays as it is if
        none follows."""
        m = modulation.attention
        out = self.attn1(self.norm1(video, text, m), rotary, reference, text_follows=text_follows)
        return self._added(video, text, out, m)

    def feed_forward(
        self, video: Tensor, text: Tensor, modulation: BlockModulation, *, text_follows: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Second half: one MLP for text and video."""
        m = modulation.feed_forward
        out = self.ff(self.norm2(video, text if text_follows else text[:, :0], m))
        return self._added(video, text, out, m)

    def _added(self, video: Tensor, text: Tensor, out: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Updates [B, M + N, D], or video's alone [B, N, D], under their gates."""
        first = out.shape[1] - video.shape[1]
        added = self.kernels.gated(video, out[:, first:], m[:, 2:3])
        return added, self.kernels.gated(text, out[:, :first], m[:, 5:6]) if first else text


class CogVideoXBlock(Block):
    """The reference network's block: CogVideoX as it was published."""

    def forward(
        self, video: Tensor, text: Tensor, modulation: BlockModulation, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        video, text = self.attend(video, text, modulation, rotary, None)
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
        heard: BlockConditions,
        *,
        text_follows: bool = True,
    ) -> tuple[Tensor, Tensor]:
        norm_q = self.attn1.norm_q
        video, text = self.attend(video, text, modulation, rotary, heard.reference, text_follows=text_follows)
        video = video + self.attn_face(self.norm_face(video), heard.face, norm_q, rotary.frame_0)
        video = video + self.attn_audio(self.norm_audio(video), heard.audio, norm_q, rotary.frame_0)
        return self.feed_forward(video, text, modulation, text_follows=text_follows)

    def reference_kv(self, features: Tensor) -> KV:
        """Keys and values of this block's reference features [1, R, D]."""
        return self.attn1.project(features)

    def face_kv(self, tokens: Tensor) -> KV:
        """Keys and values of the face tokens [1, n, token_dim]."""
        return self.attn_face.project(tokens, self.attn1.norm_k)

    def fold_output_projection(self, tokens: Tensor) -> FoldedKV:
        """The same, folded with the output layer: one face for all frames and samples."""
        return self.attn_face.fold(tokens, self.attn1.norm_k)

    def audio_kv(self, tokens: Tensor) -> KV:
        """Keys and values of the audio tokens [T, n, token_dim], one row a latent frame."""
        return self.attn_audio.project(tokens, self.attn1.norm_k)
