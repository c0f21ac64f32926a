"""The identity reference network: one latent frame of the portrait -> a feature tensor per block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from ..config import TrunkConfig
from ..ops import Layers
from ..shapes import LatentShape
from .blocks import CogVideoXBlock
from .embeddings import rotary_tables
from .modulation import Modulation
from .trunk import Trunk


class ReferenceNetwork(Trunk):
    """A second CogVideoX with its own weights, read from the inside (facts 4)."""

    def __init__(self, config: TrunkConfig, latent: LatentShape, layers: Layers) -> None:
        blocks = (CogVideoXBlock(config, layers) for _ in range(config.layers))
        super().__init__(config, latent, blocks, layers)

    def features(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Portrait latents [B, C, 1, H, W] -> per block [B, R, D]: the video tokens as they enter its
        attention, normed and modulated at t = 0.

        The latents are concatenated with themselves; the text is zeros at inference, the caption in
        training. What follows the last tensor is never computed. Golden ``ref_net_forward``.
        """
        still = self.modulate(torch.zeros(1), latents)
        tokens = self._tokens(latents, latents, self._text(latents, prompt_embeds), still)
        found: list[Tensor] = []
        for index, (video, _) in enumerate(islice(tokens, self.config.layers)):
            norm1 = self._block(index).norm1
            found.append(norm1.video(video, still.blocks[index].attention))
        return tuple(found)

    def forward(
        self, latents: Tensor, image_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None = None
    ) -> Tensor:
        """The network as plain CogVideoX: prediction [B, C, T, H, W] (golden ``backbone_forward_13f``)."""
        modulation = self.modulate(timesteps, latents)
        text = self._text(latents, prompt_embeds)
        *_, (video, _) = self._tokens(latents, image_latents, text, modulation)
        return self.head(video, modulation.head)

    def _text(self, latents: Tensor, prompt_embeds: Tensor | None) -> Tensor:
        if prompt_embeds is None:
            shape = len(latents), self.config.text_tokens, self.config.text_dim
            prompt_embeds = latents.new_zeros(shape)
        return self.patch_embed.text(prompt_embeds)

    def _tokens(
        self, latents: Tensor, image_latents: Tensor, text: Tensor, modulation: Modulation
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Video and text tokens before the first block and after each."""
        grid = self.latent._replace(frames=latents.shape[2])
        rotary = rotary_tables(self.config, grid, text.shape[1]).to(latents)
        video = self.embed(latents, image_latents)
        yield video, text
        for block, m in zip(self.transformer_blocks, modulation.blocks, strict=True):
            video, text = cast(CogVideoXBlock, block)(video, text, m, rotary)
            yield video, text
