"""What the two networks have in common: embedding before the blocks, time beside them, head after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from ..config import TrunkConfig
from ..ops import Layers, OnAccess
from ..shapes import PATCH, LatentShape, expect
from .blocks import Block
from .embeddings import PatchEmbed, TimestepEmbedding, unpatch
from .modulation import BLOCK_EPS, AdaLayerNorm, Modulation


class Trunk(nn.Module):
    """CogVideoX-5B image-to-video around a list of blocks. Parameter names are diffusers'."""

    def __init__(
        self, config: TrunkConfig, latent: LatentShape, blocks: Iterable[Block], layers: Layers
    ) -> None:
        super().__init__()
        self.config, self.latent = config, latent
        self.patch_embed = PatchEmbed(config, latent, layers)
        self.time_embedding = TimestepEmbedding(config, layers)
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_final = layers.norm(config.width, BLOCK_EPS)
        self.norm_out = AdaLayerNorm(config, layers)
        self.proj_out = layers.linear(config.width, PATCH * PATCH * config.latent_channels)

    def modulate(self, timesteps: Tensor, like: Tensor, *, on_access: bool = False) -> Modulation:
        """What S timesteps do to every block and to the head, in ``like``'s type.

        ``on_access`` leaves each block's part to the moment it is read. Timesteps may be fractional.
        """
        time = self.time_embedding(timesteps.to(like.device), like.dtype)
        blocks = OnAccess(lambda index: self._block(index).modulation(time), len(self.transformer_blocks))
        return Modulation(blocks if on_access else tuple(blocks), self.norm_out.modulation(time))

    def embed(self, latents: Tensor, image_latents: Tensor) -> Tensor:
        """Video tokens [B, N, D] of latents [B, C, T, H, W]; ``ShapeError`` if they are off the grid."""
        channels, grid = self.config.latent_channels, self.latent
        wanted = (None, channels, None, grid.height, grid.width)
        expect(tuple(latents.shape), wanted, "The latent video")
        expect(tuple(image_latents.shape), tuple(latents.shape), "The image latents")
        return self.patch_embed.video(latents, image_latents)

    def head(self, video: Tensor, modulation: Tensor) -> Tensor:
        """Video tokens -> prediction [B, C, T, H, W]: two LayerNorms in a row, eps 1e-5 and 1e-6."""
        grid = self.latent._replace(frames=video.shape[1] // self.latent.tokens_per_frame)
        return unpatch(self.proj_out(self.norm_out(self.norm_final(video), modulation)), grid)

    def _block(self, index: int) -> Block:
        return cast(Block, self.transformer_blocks[index])
