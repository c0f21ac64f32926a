"""Embeddings before the first block: patches, text, time, rotary tables, audio and face; unpatching after the
last.

B batch, C channels, T latent frames, H x W latent grid, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import AudioConfig, FaceConfig, TrunkConfig
from ..geometry import PATCH, LatentShape, check_shape
from .layers import Layers, is_plain


class PatchEmbed(nn.Module):
    """Latents and prompt embedding become tokens at learned positions (facts: backbone 1-3). One table serves
    text and video; a single latent frame uses its first rows, never an interpolation."""

    def __init__(self, config: TrunkConfig, latent: LatentShape, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.conv2d(config.in_channels, config.width, PATCH)
        self.text_proj = layers.linear(config.text_dim, config.width)
        self.pos_embedding = layers.table(1, config.text_tokens + latent.tokens, config.width)
        self.text_tokens = config.text_tokens

    def text(self, prompt_embeds: Tensor) -> Tensor:
        """Prompt embedding [B, N, text_dim] -> text tokens [B, N, D]. Raises ``ShapeError`` if N is above the
        text length, where video's positions begin."""
        length = min(prompt_embeds.shape[-2], self.text_tokens)
        check_shape(tuple(prompt_embeds.shape), (None, length, None), "The prompt embedding")
        tokens: Tensor = self.text_proj(prompt_embeds)
        return tokens + self._positions(0, tokens)

    def video(self, latents: Tensor, image_latents: Tensor) -> Tensor:
        """Noisy and image latents [B, C, T, H, W] -> video tokens [B, T*H*W/4, D], in that order."""
        frames = rearrange(torch.cat((latents, image_latents), dim=1), "b c t h w -> (b t) c h w")
        tokens = rearrange(self.proj(frames), "(b t) d h w -> b (t h w) d", b=latents.shape[0])
        return tokens + self._positions(self.text_tokens, tokens)

    def _positions(self, first: int, tokens: Tensor) -> Tensor:
        return self.pos_embedding[:, first : first + tokens.shape[1]].to(tokens)


def unpatch(tokens: Tensor, grid: LatentShape) -> Tensor:
    """Head output [B, N, C*2*2] -> latents [B, C, T, H, W]; the 64 outputs run channel, row, column."""
    pattern = "b (t h w) (c p q) -> b c t (h p) (w q)"
    return rearrange(tokens, pattern, t=grid.frames, h=grid.rows, w=grid.columns, p=PATCH, q=PATCH)


def timestep_sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """Timesteps [S] -> [S, width] in float32, cosines first (facts: backbone 4)."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angles = timesteps.float()[:, None] * rates.to(timesteps.device)[None]
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedding(nn.Module):
    """Timesteps [S] -> time vectors [S, time_dim]."""

    def __init__(self, config: TrunkConfig, layers: Layers) -> None:
        super().__init__()
        self.width = config.width
        self.linear_1 = layers.linear(config.width, config.time_dim)
        self.linear_2 = layers.linear(config.time_dim, config.time_dim)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        sinusoid = timestep_sinusoid(timesteps, self.width).to(dtype)
        return self.linear_2(F.silu(self.linear_1(sinusoid)))


class Rotary(NamedTuple):
    """Cosines and sines [M + N, head_dim] of M text tokens, which are not rotated, and N video tokens."""

    cos: Tensor
    sin: Tensor
    tokens_per_frame: int
    text_tokens: int = 0

    @property
    def frame_0(self) -> Rotary:
        first, n = self.text_tokens, self.tokens_per_frame
        return Rotary(self.cos[first : first + n], self.sin[first : first + n], n)

    @property
    def video(self) -> Rotary:
        first = self.text_tokens
        return Rotary(self.cos[first:], self.sin[first:], self.tokens_per_frame)

    def to(self, like: Tensor) -> Rotary:
        return self._replace(cos=self.cos.to(like), sin=self.sin.to(like))


def rotary_tables(config: TrunkConfig, grid: LatentShape, text_tokens: int = 0) -> Rotary:
    """3D rotary tables in float32 on the CPU: a quarter of the head for time, three eighths for row and
    column each; each angle is repeated for two neighbouring channels (facts 3, RoPE). ``text_tokens`` rows of
    angle 0 come first."""
    dims = config.head_dim // 4, config.head_dim // 8 * 3, config.head_dim // 8 * 3
    extents = grid.frames, grid.rows, grid.columns
    axes: list[Tensor] = []
    for axis, (dim, extent) in enumerate(zip(dims, extents, strict=True)):
        rates = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        angles = torch.arange(extent, dtype=torch.float32)[:, None] * rates[None]
        shape = [1, 1, 1, dim]
        shape[axis] = extent
        axes.append(angles.repeat_interleave(2, dim=-1).reshape(shape).expand(*extents, dim))
    angles = torch.cat(axes, dim=-1).reshape(grid.tokens, config.head_dim)
    angles = F.pad(angles, (0, 0, text_tokens, 0))
    return Rotary(angles.cos(), angles.sin(), grid.tokens_per_frame, text_tokens)


PROJECTION_EPS = 1e-5
KERNEL_ROWS = 1024  # of a larger kernel of the audio projection in one product; 100 MB of the released one


def pair_frames(x: Tensor) -> Tensor:
    """x [B, 2T, C] -> [B, T, 2C], channel by channel."""
    return rearrange(x, "b (t pair) c -> b t (c pair)", pair=2)


def convolve_pairs(pairs: Tensor, pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Convolution of size and stride 2 over pairs of frames [B, T, 2C] -> [B, T, D], as products with
    consecutive pieces of its kernel [D, C, 2] and bias [D]. A kernel in memory and one that is read in pieces
    give the same results, bit for bit. torch's own convolution copies the kernel on a CPU."""
    return torch.cat([F.linear(pairs, weight.flatten(1), bias) for weight, bias in pieces], dim=-1)


class AudioProjection(nn.Module):
    """One speech window per video frame -> one group of audio tokens per latent frame. As in the original,
    both temporal reductions share one convolution, and an odd count keeps its first frame (golden
    ``audio_proj_frame_counts``)."""

    def __init__(self, config: AudioConfig, layers: Layers) -> None:
        super().__init__()
        flat = config.tokens * config.token_dim
        self.proj1 = layers.linear(config.window * config.layers * config.channels, config.hidden)
        self.proj2 = layers.linear(config.hidden, config.hidden)
        self.proj3 = layers.linear(config.hidden, flat)
        self.conv1 = layers.conv1d(flat, flat, 2)
        self.norm = layers.norm(config.token_dim, PROJECTION_EPS)
        self.read_parameters = layers.parameters
        self.tokens, self.flat = config.tokens, flat

    def forward(self, windows: Tensor) -> Tensor:
        """[B, F, window, layers, channels] -> [B, T, tokens, token_dim], T latent frames for F frames."""
        x = F.relu(self.proj2(F.relu(self.proj1(windows.flatten(2)))))
        x = self._halve(self._halve(self.proj3(x)))
        return self.norm(x.unflatten(-1, (self.tokens, -1)))

    def _halve(self, x: Tensor) -> Tensor:
        first, rest = x[:, : x.shape[1] % 2], x[:, x.shape[1] % 2 :]
        if rest.shape[1] == 0:
            return first
        if not is_plain(self.conv1) or self.flat <= KERNEL_ROWS:
            return torch.cat((first, self.conv1(rest.transpose(1, 2)).transpose(1, 2)), dim=1)
        first, pairs = first.clone(), pair_frames(rest)
        del x, rest  # the memory is the caller's no more
        with self.read_parameters(self.conv1, pairs) as (weight, bias):
            starts = range(0, len(weight), KERNEL_ROWS)
            pieces = ((weight[i : i + KERNEL_ROWS], bias[i : i + KERNEL_ROWS]) for i in starts)
            return torch.cat((first, convolve_pairs(pairs, pieces)), dim=1)


class FaceProjection(nn.Module):
    """A face embedding [B, embedding_dim] -> face tokens [B, tokens, token_dim]."""

    def __init__(self, config: FaceConfig, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.linear(config.embedding_dim, config.tokens * config.token_dim)
        self.norm = layers.norm(config.token_dim, PROJECTION_EPS)
        self.tokens = config.tokens

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, -1)))
