"""From speech windows and a face embedding to the tokens that cross-attention reads (facts 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import AudioConfig, FaceConfig
from ..ops import Layers

PROJECTION_EPS = 1e-5


class AudioProjection(nn.Module):
    """One window a video frame in, one group of audio tokens a latent frame out.

    Quirks kept: both temporal reductions share one convolution; an odd count keeps its first frame
    unmixed (golden ``audio_proj_frame_counts``).
    """

    def __init__(self, config: AudioConfig, layers: Layers) -> None:
        super().__init__()
        flat = config.tokens * config.token_dim
        self.proj1 = layers.linear(config.window * config.layers * config.channels, config.hidden)
        self.proj2 = layers.linear(config.hidden, config.hidden)
        self.proj3 = layers.linear(config.hidden, flat)
        self.conv1 = layers.conv1d(flat, flat, 2)
        self.norm = layers.norm(config.token_dim, PROJECTION_EPS)
        self.tokens = config.tokens

    def forward(self, windows: Tensor) -> Tensor:
        """[B, F, window, layers, channels] -> [B, T, tokens, token_dim], T latent frames for F frames."""
        x = F.relu(self.proj1(windows.flatten(2)))
        x = self.proj3(F.relu(self.proj2(x)))
        x = self._halve(self._halve(x))
        return self.norm(x.unflatten(-1, (self.tokens, -1)))

    def _halve(self, x: Tensor) -> Tensor:
        odd = x.shape[1] % 2
        first, rest = x[:, :odd], x[:, odd:]
        if rest.shape[1] == 0:
            return first
        return torch.cat((first, self.conv1(rest.transpose(1, 2)).transpose(1, 2)), dim=1)


class FaceProjection(nn.Module):
    """A face embedding [B, embedding_dim] -> face tokens [B, tokens, token_dim]."""

    def __init__(self, config: FaceConfig, layers: Layers) -> None:
        super().__init__()
        self.proj = layers.linear(config.embedding_dim, config.tokens * config.token_dim)
        self.norm = layers.norm(config.token_dim, PROJECTION_EPS)
        self.tokens = config.tokens

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, -1)))
