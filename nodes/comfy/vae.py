"""Pixels to latents and back through a VAE socket, in the original's slices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as mm
import torch
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX
from torch import Tensor

from ...hallo3.config import VAEConfig
from ...hallo3.errors import InputError
from ...hallo3.geometry import LatentShape
from ...hallo3.vae.autoencoder import decode_slices
from ...hallo3.vae.causal_conv import DecodePlan, LayerAccess, OneDNNConvolutions
from ...hallo3.vae.decode_memory import choose_decode_plan, decode_bytes
from ...hallo3.vae.decoder import decode_parts
from .layers import parameters
from .memory import spare_bytes


def check_vae(vae: Any, config: VAEConfig | None = None) -> None:
    """Raise ``InputError`` unless the VAE is CogVideoX's and, with ``config``, of a model's size."""
    network: Any = getattr(vae, "first_stage_model", None)
    if not isinstance(network, AutoencoderKLCogVideoX):
        raise InputError(
            "This VAE is not Hallo3's.",
            found=f"a {type(network).__name__}" if network is not None else "no VAE",
            expected="the 3D VAE of CogVideoX-5B",
            fix="load CogVideoX's VAE with Load VAE, or use that of Load Hallo3 Built-in",
        )
    width = network.decoder.conv_in.conv.out_channels
    if config is not None and width != config.block_out_channels[-1]:
        raise InputError(
            "The VAE was made for another model.",
            found=f"a VAE of {width} channels",
            expected=f"{config.block_out_channels[-1]} channels",
            fix="use the VAE that belongs to the model; built-in and real parts cannot be mixed",
        )


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Frames [1, 3, F, H, W] in -1..1 -> unscaled latents [1, C, T, h, w], the posterior's mean, which is the
    original's for 1 or 3 frames."""
    check_vae(vae)
    with OneDNNConvolutions():
        return vae.encode(((pixels[0] + 1) / 2).permute(1, 2, 3, 0))


def decode(
    vae: Any, latents: Tensor, done: Callable[[], None] = lambda: None, share: float = 1.0
) -> Iterator[Tensor]:
    """Unscaled latents [1, C, T, h, w] -> slices of frames [1, 3, F, H, W] around -1..1, in as many strips as
    a ``share`` of the memory needs; ``done`` follows each slice. ComfyUI's own decode takes group norms over
    the whole clip."""
    check_vae(vae)
    plan = _reserve_memory(vae, LatentShape(*latents.shape[2:]), share)
    parts = torch.split(latents.to(vae.device, vae.vae_dtype), decode_slices(latents.shape[2]), dim=2)
    for frames in decode_parts(vae.first_stage_model.decoder, parts, plan, _COMFY_ACCESS):
        done()
        yield frames


def config_of(network: Any) -> VAEConfig:
    """The sizes of a ComfyUI VAE that decide a decode's memory."""
    blocks = network.decoder.up_blocks
    return VAEConfig(
        block_out_channels=tuple(block.resnets[0].out_channels for block in reversed(blocks)),
        layers_per_block=len(blocks[0].resnets) - 1,
        latent_channels=network.latent_channels,
        norm_num_groups=network.decoder.norm_out.norm_layer.num_groups,
    )


def free_beside(vae: Any) -> int:
    """Bytes free for a decode, without evicting other models: what ComfyUI reports, less the VAE's weights
    that are not loaded yet; with dynamic memory, which reports loaded ones as free, less all of them."""
    patcher = vae.patcher
    loaded = 0 if patcher.is_dynamic() else int(patcher.loaded_size())
    return int(patcher.get_free_memory(vae.device)) - max(0, int(patcher.model_size()) - loaded)


def _reserve_memory(vae: Any, latent: LatentShape, share: float) -> DecodePlan:
    """Choose the fastest plan for the free memory, or one that takes only a ``share`` of what that takes, and
    have ComfyUI free as much as it needs."""
    config, number = config_of(vae.first_stage_model), mm.dtype_size(vae.vae_dtype)
    free, spare = free_beside(vae), spare_bytes(vae.device, share)
    plan = choose_decode_plan(config, latent, number, free - _RESERVE)
    needed = decode_bytes(config, latent, plan, number)
    if share < 1:
        plan = choose_decode_plan(config, latent, number, min(free - spare - _RESERVE, round(share * needed)))
        needed = decode_bytes(config, latent, plan, number)
    logging.info(
        "Hallo3: decoding in %d strips, caches on the %s: %.2f GB, %.2f GB are free",
        plan.strips,
        plan.caches,
        needed / 1e9,
        free / 1e9,
    )
    needed += _RESERVE + spare
    mm.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=vae.disable_offload)
    return plan


_RESERVE = 200_000_000
"""Bytes for convolution libraries."""
_COMFY_ACCESS = LayerAccess(parameters)
