"""Adaptive layer norm: what the timestep does to every block, as values that can be prepared.

S timesteps (one per run step, or one per sample), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrunkConfig
from ..kernels.plain import modulate
from ..ops import Layers

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
