"""Encode frames in one call, decode latents slice by slice; the networks are diffusers' (facts 7).

B batch, C latent channels, T latent frames, F video frames, H x W pixels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..config import VAEConfig
from ..errors import check_docstrings
from .causal_conv import DecodePlan, OneDNNConvolutions
from .decoder import decode_parts

DEFAULT_PLAN = DecodePlan()


class Posterior(NamedTuple):
    """Mean and log-variance [B, C, T, h, w], unscaled."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + exp(log_variance / 2) noise. The original always samples; our default is the mean."""
        spread = torch.exp(0.5 * self.log_variance.clamp(-30.0, 20.0))
        return self.mean + spread * noise.to(self.mean)


class VideoVAE(nn.Module):
    """diffusers' ``AutoencoderKLCogVideoX``: its encoder called as in the original, its decoder run by
    ``decoder.py``. diffusers' own ``encode`` splits after 8 frames, which changes the group norms of longer
    clips."""

    def __init__(self, network: nn.Module, scaling_factor: float, plan: DecodePlan = DEFAULT_PLAN) -> None:
        super().__init__()
        self.network: Any = network
        self.scaling_factor = scaling_factor
        self.plan = plan

    def posterior(self, pixels: Tensor) -> Posterior:
        """Frames [B, 3, F, H, W] in -1..1 -> posterior, in one encoder call of any length."""
        with OneDNNConvolutions():
            moments, _ = self.network.encoder(_cast(pixels, self.network.encoder))
        return Posterior(*moments.chunk(2, dim=1))

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames -> scaled latents [B, C, T, h, w]: the posterior's mean, or its sample under ``noise``."""
        posterior = self.posterior(pixels)
        return (posterior.mean if noise is None else posterior.sample(noise)) * self.scaling_factor

    def decode(
        self, latents: Tensor, slices: Sequence[int] | None = None, plan: DecodePlan | None = None
    ) -> Iterator[Tensor]:
        """Scaled latents [B, C, T, h, w] -> slices of frames [B, 3, F, H, W] in -1..1, each decoded when it
        is read. ``slices`` are latent frames per slice (default: the original's). Golden
        ``vae_decode_chunked``."""
        unscaled = _cast(latents, self.network.decoder) * (1 / self.scaling_factor)
        parts = torch.split(unscaled, list(slices or decode_slices(latents.shape[2])), dim=2)
        yield from decode_parts(self.network.decoder, parts, plan or self.plan)


def decode_slices(latent_frames: int) -> list[int]:
    """Latent frames per decoder call: the odd one joins the first pair (13 -> 3, 2, 2, 2, 2, 2)."""
    first = min(latent_frames, 2 + latent_frames % 2)
    return [first, *[2] * ((latent_frames - first) // 2)]


def _cast(tensor: Tensor, network: nn.Module) -> Tensor:
    return tensor.to(next(network.parameters()))


def build_vae(config: VAEConfig, plan: DecodePlan = DEFAULT_PLAN) -> VideoVAE:
    """On the meta device; ``plan`` is the default of its decodes."""
    check_docstrings()  # diffusers imports transformers
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    levels = len(config.block_out_channels)
    with torch.device("meta"):
        network = cast(Any, AutoencoderKLCogVideoX)(
            block_out_channels=config.block_out_channels,
            down_block_types=("CogVideoXDownBlock3D",) * levels,
            up_block_types=("CogVideoXUpBlock3D",) * levels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            scaling_factor=config.scaling_factor,
        )
    return VideoVAE(network, config.scaling_factor, plan)
