"""Hallo3's diffusion transformer and reference network: prepare what is constant, then predict the velocity.

B batch, C latent channels, T latent frames, F video frames, R reference tokens, M text tokens, D width, P
speakers. Sequences have one item per block: tuples, or ``LazyParameters``.

Several speakers have masks on the grid of video tokens, [B or 1, P, T or 1, rows, columns], which add up to 1
at every token: audio and face attention are the sum over speakers, each times its mask. Without masks there
is one speaker, and so with the mask of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import Hallo3Config, TrunkConfig
from ..geometry import PATCH, LatentShape, check_shape
from ..progress import OpenProgress, no_display, watch_items
from .attention import KV, AnyKV, FoldedKV, SpeakersKV
from .blocks import BLOCK_EPS, AdaLayerNorm, Block, BlockConditions, CogVideoXBlock, Hallo3Block, Modulation
from .embeddings import (
    AudioProjection,
    FaceProjection,
    PatchEmbed,
    Rotary,
    TimestepEmbedding,
    rotary_tables,
    unpatch,
)
from .layers import Layers, LazyParameters


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
        """Modulation of S timesteps, which may be fractional, in ``like``'s type; with ``on_access`` a
        block's part is computed when it is read."""
        time = self.time_embedding(timesteps.to(like.device), like.dtype)
        blocks = LazyParameters(
            lambda index: self._block(index).modulation(time), len(self.transformer_blocks)
        )
        return Modulation(blocks if on_access else tuple(blocks), self.norm_out.modulation(time))

    def embed(self, latents: Tensor, image_latents: Tensor) -> Tensor:
        """Latents [B, C, T, H, W] -> video tokens [B, N, D]. Raises ``ShapeError`` for another grid."""
        expected = (None, self.config.latent_channels, None, self.latent.height, self.latent.width)
        check_shape(tuple(latents.shape), expected, "The latent video")
        check_shape(tuple(image_latents.shape), tuple(latents.shape), "The image latents")
        return self.patch_embed.video(latents, image_latents)

    def head(self, video: Tensor, modulation: Tensor) -> Tensor:
        """Video tokens -> prediction [B, C, T, H, W]: two LayerNorms in a row, eps 1e-5 and 1e-6."""
        grid = self.latent._replace(frames=video.shape[1] // self.latent.tokens_per_frame)
        return unpatch(self.proj_out(self.norm_out.video(self.norm_final(video), modulation)), grid)

    def _block(self, index: int) -> Block:
        return cast(Block, self.transformer_blocks[index])


class ReferenceNetwork(Trunk):
    """A second CogVideoX with its own weights; its hidden states are the reference features (facts 4)."""

    def __init__(self, config: TrunkConfig, latent: LatentShape, layers: Layers) -> None:
        blocks = (CogVideoXBlock(config, layers) for _ in range(config.layers))
        super().__init__(config, latent, blocks, layers)

    def features(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Portrait latents [B, C, 1, H, W] -> per block [B, R, D]: the video tokens that enter its attention,
        normed and modulated at t = 0.

        The latents are concatenated with themselves; the text is zeros at inference, the caption in training.
        Stops before the last block's attention. Golden ``ref_net_forward``.
        """
        modulation = self.modulate(torch.zeros(1), latents)
        tokens = self._tokens(latents, latents, self._text(latents, prompt_embeds), modulation)
        return tuple(
            self._block(index).norm1.video(video, modulation.blocks[index].attention)
            for index, (video, _) in enumerate(islice(tokens, self.config.layers))
        )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConditions:
    """Constant for a run. ``silence`` is the audio of the unconditional branch: all-zero windows, projected.
    ``steps`` has one modulation per step. ``masks`` [1, P, T or 1, rows, columns] are of several speakers."""

    reference: Sequence[KV]
    face: Sequence[FoldedKV | SpeakersKV]
    silence: Sequence[KV]
    rotary: Rotary
    steps: Sequence[Modulation]
    masks: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConditions:
    """Constant for a segment: text [2, M, D] as of ``encode_text``, audio keys/values [T, H, n, d] and image
    latents [1, C, T, H, W]."""

    text: Tensor
    audio: Sequence[KV | SpeakersKV]
    image_latents: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions of one forward pass, for a batch of B guidance branches."""

    text: Tensor
    reference: Sequence[KV]
    face: Sequence[AnyKV]
    audio: Sequence[KV | SpeakersKV]
    rotary: Rotary


T = TypeVar("T")
PREPARED = {
    "steps": ("norm1.linear", "norm2.linear"),
    "reference": ("attn1.to_k", "attn1.to_v"),
    "face": ("attn_face.to_k", "attn_face.to_v", "attn_face.to_out.0"),
    "audio": ("attn_audio.to_k", "attn_audio.to_v"),
}
"""A block's layers that prepare the conditions of a run."""


class Hallo3Transformer(Trunk):
    """CogVideoX with reference tokens in its self-attention and cross-attention to face and audio."""

    def __init__(self, config: Hallo3Config, layers: Layers) -> None:
        latent: LatentShape = config.segment.shape.latent
        trunk, face, audio = config.trunk, config.face, config.audio
        blocks = (Hallo3Block(trunk, face, audio, layers) for _ in range(trunk.layers))
        super().__init__(trunk, latent, blocks, layers)
        self.face_proj = FaceProjection(face, layers)
        self.audio_proj = AudioProjection(audio, layers)
        self.window_shape = (config.segment.frames, audio.window, audio.layers, audio.channels)

    def forward(
        self, latents: Tensor, image_latents: Tensor, modulation: Modulation, conditions: Conditions
    ) -> Tensor:
        """Noisy and image latents [B, C, T, H, W] -> velocity [B, C, T, H, W]. ``modulation`` has one row for
        all samples or one per sample. Golden ``dit_forward_b1``."""
        return self.forward_layerwise(latents, image_latents, modulation, (conditions,))[0]

    def forward_layerwise(
        self, latents: Tensor, image_latents: Tensor, modulation: Modulation, passes: Sequence[Conditions]
    ) -> list[Tensor]:
        """Several forward passes over the same latents, block by block, so that a block's weights are read
        once. The numbers are those of one pass after the other."""
        last = self.config.layers - 1
        tokens = [(self.embed(latents, image_latents), each.text) for each in passes]
        for index, block in enumerate(self.transformer_blocks):
            m = modulation.blocks[index]
            for number, each in enumerate(passes):
                conditions = BlockConditions(each.reference[index], each.face[index], each.audio[index])
                tokens[number] = cast(Hallo3Block, block)(
                    *tokens[number], m, each.rotary, conditions, return_text=index < last
                )
        return [self.head(video, modulation.head) for video, _ in tokens]

    def prepare(
        self,
        reference_features: Sequence[Tensor],
        face_embedding: Tensor,
        timesteps: Tensor,
        *,
        masks: Tensor | None = None,
        on_access: bool = False,
        steps_on_access: bool = False,
        open_progress: OpenProgress = no_display,
    ) -> RunConditions:
        """Conditions of a run, from features [1, R, D] per block, embedding [1, E] and timesteps [S]; of
        several speakers from embeddings [1, P, E] and masks.

        With ``on_access`` the reference features are projected when a block reads them, with
        ``steps_on_access`` the modulations computed then (for small GPUs); the results are equal up to
        rounding. ``open_progress`` shows the bytes of the weights that are used now.
        """
        like = next(self.parameters())
        faces, shares = self._speakers(face_embedding.to(like), masks)
        face_tokens = [self.face_proj(each) for each in faces]
        steps: Sequence[Modulation] = LazyParameters(
            lambda index: self.modulate(timesteps[index : index + 1], like, on_access=True), len(timesteps)
        )
        later = {"steps"} if steps_on_access else set[str]()
        later |= {"reference", "audio"} if on_access else set[str]()
        block = self.transformer_blocks[0]
        layers = {name: [cast(Any, block.get_submodule(one)) for one in PREPARED[name]] for name in PREPARED}
        amounts = {
            name: sum(one.in_features * one.out_features for one in layers[name]) * like.element_size()
            for name in PREPARED
        }
        total = self.config.layers * sum(amount for name, amount in amounts.items() if name not in later)
        with open_progress("preparing", total) as progress:

            def compute(name: str, items: Sequence[T]) -> Sequence[T]:
                return items if name in later else tuple(watch_items(items, progress, amounts[name]))

            if not steps_on_access:
                modulation = self.modulate(timesteps, like, on_access=True)
                modulation = modulation._replace(blocks=compute("steps", modulation.blocks))
                steps = tuple(modulation.step(index) for index in range(len(timesteps)))
            reference = self._per_block(lambda block, i: block.attn1.project(reference_features[i].to(like)))
            reference = compute("reference", reference)
            face = self._per_speaker(face_tokens, shares, Hallo3Block.fold_output_projection)
            face = compute("face", cast("Sequence[FoldedKV | SpeakersKV]", face))
            silence = self.encode_audio(like.new_zeros(1, *self.window_shape), on_access=True)
            silence = compute("audio", cast("Sequence[KV]", silence))
        rotary = self.rotary(self.latent.frames, like.new_empty(1, self.config.text_tokens))
        return RunConditions(
            reference=reference, face=face, silence=silence, rotary=rotary, steps=steps, masks=masks
        )

    def encode_text(self, prompt_embeds: Tensor) -> Tensor:
        """Prompt [1, M, text_dim] -> text tokens of both branches [2, M, D], zero text first."""
        return self.patch_embed.text(torch.cat((torch.zeros_like(prompt_embeds), prompt_embeds)))

    def conditions(
        self,
        reference_features: Sequence[Tensor],
        face_embedding: Tensor,
        prompt_embeds: Tensor,
        windows: Tensor,
        latent_frames: Sequence[int] | None = None,
        masks: Tensor | None = None,
    ) -> Conditions:
        """Conditions of one pass, projected when a block reads them: for training and for ComfyUI, which
        prepare nothing. Features [1 or B, R, D] per block, embedding [1 or B, E], prompt [B, M, text_dim],
        windows as in :meth:`encode_audio`; with masks embeddings [1 or B, P, E] and windows of P speakers."""
        like = prompt_embeds
        frames = self.latent.frames if latent_frames is None else len(latent_frames)
        embeddings, shares = self._speakers(face_embedding.to(like), masks, latent_frames)
        face_tokens = [self.face_proj(each) for each in embeddings]

        def project(block: Hallo3Block, faces: Tensor) -> KV | FoldedKV:
            if len(faces) == 1 and block.attn_face.foldable:
                return block.fold_output_projection(faces)
            return block.face_kv(faces.repeat_interleave(frames, dim=0))

        return Conditions(
            text=self.patch_embed.text(prompt_embeds),
            reference=self._per_block(lambda block, i: block.attn1.project(reference_features[i].to(like))),
            face=self._per_speaker(face_tokens, shares, project),
            audio=self.encode_audio(windows, latent_frames=latent_frames, masks=masks, on_access=True),
            rotary=self.rotary(frames, like),
        )

    def rotary(self, frames: int, like: Tensor) -> Rotary:
        """Tables of a segment of latent frames behind text [B, M, ...]."""
        return rotary_tables(self.config, self.latent._replace(frames=frames), like.shape[1]).to(like)

    def encode_audio(
        self,
        windows: Tensor,
        *,
        latent_frames: Sequence[int] | None = None,
        masks: Tensor | None = None,
        on_access: bool = False,
    ) -> Sequence[KV | SpeakersKV]:
        """Speech windows [B, F, window, layers, channels], or the tokens [B, T, n, token_dim] that
        ``audio_proj`` made of them -> audio keys/values [B*T, H, n, d] per block. With masks of P speakers
        windows or tokens are [B, P, ...]. ``latent_frames`` selects some of a segment's latent frames, for a
        host that samples those only."""
        speakers, shares = self._speakers(windows, masks, latent_frames)
        tokens = [each if each.ndim == 4 else self.audio_proj(each) for each in speakers]
        if latent_frames is not None:
            tokens = [each[:, list(latent_frames)] for each in tokens]
        tokens = [each.flatten(0, 1) for each in tokens]
        lazy = cast("Sequence[KV | SpeakersKV]", self._per_speaker(tokens, shares, Hallo3Block.audio_kv))
        return lazy if on_access else tuple(lazy)

    def _speakers(
        self, values: Tensor, masks: Tensor | None, latent_frames: Sequence[int] | None = None
    ) -> tuple[Sequence[Tensor], Tensor | None]:
        """Values [B, P, ...] and masks -> each speaker's values [B, ...] and the shares (see ``SpeakersKV``);
        of one speaker no shares. Raises ``ShapeError`` for masks of another grid or number."""
        if masks is None:
            return (values,), None
        grid, frames = self.latent, masks.shape[2] if masks.ndim == 5 else 1
        frames = frames if frames == 1 else self.latent.frames
        expected = None, values.shape[1], frames, grid.rows, grid.columns
        check_shape(tuple(masks.shape), expected, "The masks of the speakers")
        if latent_frames is not None and frames > 1:
            masks = masks[:, :, list(latent_frames)]
        shares = masks.to(values).flatten(3).transpose(0, 1).unsqueeze(-1)
        return values.unbind(1), shares if len(shares) > 1 else None

    def _per_speaker(
        self,
        tokens: Sequence[Tensor],
        shares: Tensor | None,
        make: Callable[[Hallo3Block, Tensor], KV | FoldedKV],
    ) -> Sequence[AnyKV]:
        """Computed when a block reads it, of each speaker's tokens."""
        if shares is None:
            return self._per_block(lambda block, _: make(block, tokens[0]))
        return self._per_block(
            lambda block, _: SpeakersKV(tuple(make(block, each) for each in tokens), shares)
        )

    def _per_block(self, make: Callable[[Hallo3Block, int], T]) -> Sequence[T]:
        """Computed when a block reads it."""
        return LazyParameters(
            lambda index: make(cast(Hallo3Block, self._block(index)), index), self.config.layers
        )
