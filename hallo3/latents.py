"""Pixels to latents and back with whichever VAE a run was given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .models import Models
from .noise import Noise, Purpose
from .settings import Settings
from .shapes import latent_frames


def encode_pixels(
    pixels: Tensor, purpose: Purpose, segment: int, models: Models, settings: Settings, noise: Noise
) -> Tensor:
    """Frames [1, 3, F, H, W] in -1..1 -> scaled latents [1, C, T, h, w]; only "sample" draws noise."""
    config = models.config
    grid = config.segment.shape.latent._replace(frames=latent_frames(pixels.shape[2]))
    draw = None
    if settings.posterior == "sample":
        draw = noise(purpose, segment, 0, (1, config.vae.latent_channels, *grid))
    with models.vae as vae:
        return vae.encode(pixels, draw)


def decode_frames(latents: Tensor, models: Models) -> Iterator[Tensor]:
    """Scaled latents [1, C, T, h, w] -> slices of frames [1, 3, F, H, W] around -1..1."""
    with models.vae as vae:
        yield from vae.decode(latents)


def collect(slices: Iterator[Tensor], wanted: int) -> Tensor:
    """Slices as frames [1, 3, F, H, W] in 0..1 on the CPU, F at least ``wanted``: a last segment need
    not be decoded beyond what it keeps."""
    parts: list[Tensor] = []
    found = 0
    for frames in slices:
        parts.append(((frames.float().cpu() + 1) / 2).clamp(0, 1))
        found += frames.shape[2]
        if found >= wanted:
            break
    return torch.cat(parts, dim=2)
