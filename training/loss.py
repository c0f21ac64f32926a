"""The original's training loss on the package's own networks (facts 15, golden ``train_loss``).

B samples, C latent channels, T latent frames, M text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.sampling.schedule import denoiser_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Clips and their conditions; dropped conditions are zeros.

    ``latents`` and ``image_latents`` [B, C, T, h, w] (portrait and motion frames, then zeros),
    ``face_latents`` [B, C, 1, h, w] of the portrait with everything but the face black, ``windows``
    [B, F, window, layers, channels], ``face_embedding`` [B, E], ``prompt_embeds`` [B, M, text_dim].

    Of pictures with up to P speakers: ``windows`` [B, P, F, ...], ``face_embedding`` [B, P, E], all their
    faces in ``face_latents``, and ``masks`` [B, P, T or 1, rows, columns] on the grid of video tokens, which
    add up to 1 at every token. Speakers that a sample lacks have masks, windows and embeddings of zeros.
    """

    latents: Tensor
    image_latents: Tensor
    face_latents: Tensor
    windows: Tensor
    face_embedding: Tensor
    prompt_embeds: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A step's random values: an index [B] into the noise table, and noise shaped like the latents."""

    table_index: Tensor
    noise: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The loss of every sample [B], the network's input and its output."""

    per_sample: Tensor
    noisy: Tensor
    velocity: Tensor


def velocity_loss(
    dit: Hallo3Transformer,
    reference: ReferenceNetwork,
    batch: Batch,
    draw: Draw,
    weight: Tensor | None = None,
    reference_reads_text: bool = True,
) -> Loss:
    """Mean squared error of the velocity at one noise level per sample.

    Equals the original's error of x0 weighted with 1 / (1 - alpha^2). Its reference network reads the caption
    in training and zeros when rendering; ``reference_reads_text=False`` trains it as it renders. ``weight``
    is shaped like the latents; the original has none.
    """
    alpha = denoiser_table().to(batch.latents)[draw.table_index.cpu()]
    signal = alpha[:, None, None, None, None]
    spread = (1 - signal**2).sqrt()
    noisy = signal * batch.latents + spread * draw.noise
    features = reference.features(batch.face_latents, batch.prompt_embeds if reference_reads_text else None)
    modulation = dit.modulate(draw.table_index.float(), noisy)
    conditions = dit.conditions(
        features, batch.face_embedding, batch.prompt_embeds, batch.windows, masks=batch.masks
    )
    velocity = dit(noisy, batch.image_latents, modulation, conditions)
    target = signal * draw.noise - spread * batch.latents
    error = (velocity.to(target) - target).square()
    weighted = error if weight is None else error * weight
    return Loss(per_sample=weighted.flatten(1).mean(dim=1), noisy=noisy, velocity=velocity)


def draw_noise(latents: Tensor, generator: torch.Generator, noisiest: float = 0.0) -> Draw:
    """A uniform table index and normal noise for every sample; a share ``noisiest`` has its index in the
    noisiest fifth of the table, where few steps spend most. The original has no such share."""
    count, levels = len(latents), len(denoiser_table())
    index = torch.randint(levels, (count,), generator=generator)
    if noisiest:
        chosen = torch.rand(count, generator=generator) < noisiest
        index = torch.where(chosen, levels - 1 - index // 5, index)
    noise = torch.randn(latents.shape, generator=generator)
    return Draw(table_index=index, noise=noise.to(latents))
