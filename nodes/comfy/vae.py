"""Pixels to latents and back through a VAE socket, in the original's slices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.ops
import torch
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX
from torch import Tensor, nn

from ...hallo3.config import VAEConfig
from ...hallo3.errors import InputError
from ...hallo3.geometry import LatentShape
from ...hallo3.vae.autoencoder import decode_slices
from ...hallo3.vae.causal_conv import DecodePlan, LayerAccess, OneDNNConvolutions, WeightAndBias, convolve
from ...hallo3.vae.decode_memory import choose_decode_plan, decode_bytes
from ...hallo3.vae.decoder import decode_parts


def check_vae(vae: Any, config: VAEConfig | None = None) -> None:
    """Refuse any VAE but CogVideoX's, and one of another size than a model's own. Raises ``InputError``."""
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
    """Frames [1, 3, F, H, W] in -1..1, F 1 or 3 -> unscaled latents [1, C, T, h, w], the posterior's mean.

    Of longer clips ComfyUI's encoder makes other latents than the original's.
    """
    check_vae(vae)
    with OneDNNConvolutions():
        return vae.encode(((pixels[0] + 1) / 2).permute(1, 2, 3, 0))


def decode(vae: Any, latents: Tensor, done: Callable[[], None] = lambda: None) -> Iterator[Tensor]:
    """Unscaled latents [1, C, T, h, w] -> slices of frames [1, 3, F, H, W] around -1..1.

    ComfyUI's own decoding spans group norms over the whole clip, which is another picture; this walks the
    decoder slice by slice, the causal cache living here, in as many strips as the device has memory for.
    ``done`` is called after every slice.
    """
    check_vae(vae)
    plan = _make_room(vae, LatentShape(*latents.shape[2:]))
    parts = torch.split(latents.to(vae.device, vae.vae_dtype), decode_slices(latents.shape[2]), dim=2)
    for frames in decode_parts(vae.first_stage_model.decoder, parts, plan, _COMFYUIS):
        done()
        yield frames


def config_of(network: Any) -> VAEConfig:
    """The sizes of a ComfyUI VAE that say what a decode takes."""
    blocks = network.decoder.up_blocks
    return VAEConfig(
        block_out_channels=tuple(block.resnets[0].out_channels for block in reversed(blocks)),
        layers_per_block=len(blocks[0].resnets) - 1,
        latent_channels=network.latent_channels,
    )


def free_beside(vae: Any) -> int:
    """Bytes that a decode may fill: what ComfyUI calls free, less what the VAE has yet to bring.

    Nothing else that ComfyUI could evict is planned with: other models may leave more room than this. Under
    its dynamic memory it counts weights that it can take back as free, the VAE's own among them; these are
    taken off again.
    """
    patcher = vae.patcher
    there = 0 if patcher.is_dynamic() else int(patcher.loaded_size())
    return int(patcher.get_free_memory(vae.device)) - max(0, int(patcher.model_size()) - there)


def _make_room(vae: Any, latent: LatentShape) -> DecodePlan:
    """The quickest plan for the memory that is free, and that much of it kept free of weights."""
    config, number = config_of(vae.first_stage_model), mm.dtype_size(vae.vae_dtype)
    free = free_beside(vae)
    plan = choose_decode_plan(config, latent, number, free - _LEFT)
    needed = decode_bytes(config, latent, plan, number)
    logging.info(
        "Hallo3: decoding in %d strips, caches on the %s: %.2f GB, %.2f GB are free",
        plan.strips,
        plan.caches,
        needed / 1e9,
        free / 1e9,
    )
    mm.load_models_gpu([vae.patcher], memory_required=needed + _LEFT, force_full_load=vae.disable_offload)
    return plan


_LEFT = 200_000_000
"""Bytes left to convolution libraries."""


@contextmanager
def _parameters(layer: nn.Module, like: Tensor) -> Generator[WeightAndBias]:
    """A layer's weight and bias, brought and cast by ComfyUI; a place to be interrupted."""
    mm.throw_exception_if_processing_interrupted()
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """The package's, but for the versions of cuDNN and torch that ComfyUI works round: there 3D convolutions
    of half types take far too much memory unless cuDNN is called directly."""
    halves = weight.is_cuda and weight.dtype in (torch.float16, torch.bfloat16)
    if not (halves and getattr(comfy.ops, "NVIDIA_MEMORY_CONV_BUG_WORKAROUND", False)):
        return convolve(signal, weight, bias, padding)
    once = (1, 1, 1)
    made = torch.cudnn_convolution(
        signal,
        weight,
        padding,
        once,
        once,
        1,
        benchmark=False,
        deterministic=False,
        allow_tf32=True,
    )
    return made if bias is None else made.add_(bias[:, None, None, None])


_COMFYUIS = LayerAccess(_parameters, _convolve)
