"""A small VAE with random weights."""

import torch

from hallo3.config import VAEConfig
from hallo3.vae.autoencoder import VideoVAE, build_vae

SMALL = VAEConfig(block_out_channels=(8, 16, 8, 16), layers_per_block=1, norm_num_groups=4, norm_eps=1e-4)
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
