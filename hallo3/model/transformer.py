"""Hallo3's diffusion transformer: prepare what is constant, hear a segment, predict the velocity.

B batch, C latent channels, T latent frames, F video frames, R reference tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from ..config import Hallo3Config
from ..ops import Layers, OnAccess
from ..shapes import LatentShape
from .attention import KV
from .blocks import Hallo3Block
from .conditions import Conditions, RunConditions
from .embeddings import rotary_tables
from .modulation import Modulation
from .projections import AudioProjection, FaceProjection
from .trunk import Trunk

T = TypeVar("T")


class Hallo3Transformer(Trunk):
    """CogVideoX with reference tokens in its self-attention and cross-attention to a face and a voice."""

    def __init__(self, config: Hallo3Config, layers: Layers) -> None:
        latent: LatentShape = config.segment.shape.latent
        trunk, face, audio = config.trunk, config.face, config.audio
        blocks = (Hallo3Block(trunk, face, audio, layers) for _ in range(trunk.layers))
        super().__init__(trunk, latent, blocks, layers)
        self.face_proj = FaceProjection(face, layers)
        self.audio_proj = AudioProjection(audio, layers)
        self.window_shape = (config.segment.frames, audio.window, audio.layers, audio.channels)

    def forward(
        self, latents: Tensor, image_latents: Tensor, modulation: Modulation, heard: Conditions
    ) -> Tensor:
        """Noisy and image latents [B, C, T, H, W] -> velocity [B, C, T, H, W].

        ``modulation`` has one row for all or one a sample. Golden ``dit_forward_b1``.
        """
        video, text = self.embed(latents, image_latents), heard.text
        for block, m, conditions in zip(
            self.transformer_blocks, modulation.blocks, heard.blocks(), strict=True
        ):
            video, text = cast(Hallo3Block, block)(video, text, m, heard.rotary, conditions)
        return self.head(video, modulation.head)

    def prepare(
        self,
        reference_features: Sequence[Tensor],
        face_embedding: Tensor,
        prompt_embeds: Tensor,
        timesteps: Tensor,
        *,
        on_access: bool = False,
    ) -> RunConditions:
        """All that stays the same for a run: features [1, R, D] per block, embedding [1, E], prompt
        [1, M, text_dim], timesteps [S].

        ``on_access`` projects when a block reads (small cards); the numbers are equal.
        """
        like = prompt_embeds
        texts = torch.cat((torch.zeros_like(prompt_embeds), prompt_embeds))
        face_tokens = self.face_proj(face_embedding.to(like))

        def step(index: int) -> Modulation:
            return self.modulate(timesteps[index : index + 1], like, on_access=on_access)

        steps = OnAccess(step, len(timesteps))
        return RunConditions(
            text=self.patch_embed.text(texts),
            reference=self._per_block(
                lambda block, i: block.reference_kv(reference_features[i].to(like)), on_access
            ),
            face=self._per_block(lambda block, _: block.face_kv(face_tokens), on_access),
            silence=self.hear(like.new_zeros(1, *self.window_shape), on_access=on_access),
            rotary=rotary_tables(self.config, self.latent).to(like),
            steps=steps if on_access else tuple(steps),
        )

    def hear(
        self, windows: Tensor, *, latent_frames: Sequence[int] | None = None, on_access: bool = False
    ) -> Sequence[KV]:
        """Speech windows [B, F, window, layers, channels] -> each block's audio keys/values [B*T, H, n, d].

        ``latent_frames`` picks some of a segment's latent frames, for a host that samples them apart.
        """
        tokens = self.audio_proj(windows)
        if latent_frames is not None:
            tokens = tokens[:, list(latent_frames)]
        tokens = tokens.flatten(0, 1)
        return self._per_block(lambda block, _: block.audio_kv(tokens), on_access)

    def hallo3_blocks(self) -> tuple[Hallo3Block, ...]:
        """The blocks, each of which projects its own conditions."""
        return tuple(cast(Hallo3Block, block) for block in self.transformer_blocks)

    def _per_block(self, make: Callable[[Hallo3Block, int], T], on_access: bool) -> Sequence[T]:
        blocks = self.hallo3_blocks()
        made = OnAccess(lambda index: make(blocks[index], index), len(blocks))
        return made if on_access else tuple(made)
