"""Pixels to latents and back through a VAE socket, in the original's slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as mm
import torch
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX
from torch import Tensor

from ...hallo3.config import VAEConfig
from ...hallo3.errors import InputError
from ...hallo3.vae.codec import decode_slices
from ...hallo3.vae.onednn import OneDNNConvolutions


def check_vae(vae: Any, config: VAEConfig | None = None) -> None:
    """Refuse any VAE but CogVideoX's, and one of another size than a model's own. Raises ``InputError``."""
    network: Any = getattr(vae, "first_stage_model", None)
    if not isinstance(network, AutoencoderKLCogVideoX):
        raise InputError(
            "This VAE is not Hallo3's.",
            found=f"a {type(network).__name__}" if network is not None else "no VAE",
            expected="the 3D VAE of CogVideoX-5B",
            do="load CogVideoX's VAE with Load VAE, or use that of Load Hallo3 Built-in",
        )
    width = network.decoder.conv_in.conv.out_channels
    if config is not None and width != config.block_out_channels[-1]:
        raise InputError(
            "The VAE was made for another model.",
            found=f"a VAE of {width} channels",
            expected=f"{config.block_out_channels[-1]} channels",
            do="use the VAE that belongs to the model; built-in and real parts cannot be mixed",
        )


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Frames [1, 3, F, H, W] in -1..1, F 1 or 3 -> unscaled latents [1, C, T, h, w], the posterior's mean.

    Of longer clips ComfyUI's encoder makes other latents than the original's.
    """
    check_vae(vae)
    with OneDNNConvolutions():
        return vae.encode(((pixels[0] + 1) / 2).permute(1, 2, 3, 0))


def decode(vae: Any, latents: Tensor, done: Callable[[], None] = lambda: None) -> Iterator[Tensor]:
    """Unscaled latents [1, C, T, h, w] -> slices of frames [1, 3, F, H, W] around -1..1.

    ComfyUI's own decoding spans group norms over the whole clip, which is another picture; this calls the
    decoder slice by slice, the causal cache living here. ``done`` is called after every slice.
    """
    check_vae(vae)
    sizes = decode_slices(latents.shape[2])
    first = (*latents.shape[:2], sizes[0], *latents.shape[3:])
    needed = vae.memory_used_decode(first, vae.vae_dtype)
    mm.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=vae.disable_offload)
    cache: Any = None
    for part in torch.split(latents, sizes, dim=2):
        mm.throw_exception_if_processing_interrupted()
        with OneDNNConvolutions():
            frames, cache = vae.first_stage_model.decoder(
                part.to(vae.device, vae.vae_dtype), conv_cache=cache
            )
        done()
        yield frames
