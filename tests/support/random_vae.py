"""VAEs with random weights, and diffusers' decoder called slice by slice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hallo3.config import VAEConfig
from hallo3.vae.autoencoder import VideoVAE, build_vae

SMALL = VAEConfig(block_out_channels=(8, 16, 8, 16), layers_per_block=1, norm_num_groups=4)
"""Block widths that fall, rise and stay."""


def random_vae(config: VAEConfig = SMALL, seed: int = 0) -> VideoVAE:
    """Weights that keep activations at their scale; norms are not the identity."""
    vae = build_vae(config)
    vae.network.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    for name, weight in vae.network.named_parameters():
        spread = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
        middle = 1.0 if "norm_layer.weight" in name or "conv_y.conv.bias" in name else 0.0
        weight.data = middle + spread * torch.randn(weight.shape, generator=draw)
    return vae


def latents_of(frames: int, height: int = 5, width: int = 6, batch: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 16, frames, height, width, generator=draw)


def diffusers_frames(vae: VideoVAE, latents: Tensor, slices: Sequence[int]) -> Tensor:
    """Frames by diffusers' decoder of unscaled latents in these slices."""
    cache, parts = None, list[Tensor]()
    for part in torch.split(latents, list(slices), dim=2):
        frames, cache = vae.network.decoder(part, conv_cache=cache)
        parts.append(frames)
    return torch.cat(parts, dim=2)
