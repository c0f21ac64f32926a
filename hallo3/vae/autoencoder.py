"""Encode frames in one call, decode latents slice by slice (facts 7).

The layers are those of diffusers' ``AutoencoderKLCogVideoX``, with its names. That class is not used, because
diffusers and transformers take 5 CPU-seconds to import, and because its decoder holds a slice several times
(decision 001). Tests hold layers and results to it; networks of that class can be run here.

B batch, C latent channels, T latent frames, F video frames, H x W pixels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VAEConfig
from .causal_conv import DecodePlan, convolve, convolve_frames
from .decoder import decode_parts

DEFAULT_PLAN = DecodePlan()
NORM_EPS = 1e-6
"""Of spatial norms and of the encoder's last norm, whatever the configuration says."""


class Posterior(NamedTuple):
    """Mean and log-variance [B, C, T, h, w], unscaled."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + exp(log_variance / 2) noise. The original always samples; our default is the mean."""
        spread = torch.exp(0.5 * self.log_variance.clamp(-30.0, 20.0))
        return self.mean + spread * noise.to(self.mean)


class VideoVAE(nn.Module):
    """``network`` has an ``encoder`` and a ``decoder``. A clip of any length is encoded in one call, as in
    the original; diffusers' own ``encode`` splits after 8 frames, which changes the group norms of longer
    clips."""

    def __init__(self, network: nn.Module, scaling_factor: float, plan: DecodePlan = DEFAULT_PLAN) -> None:
        super().__init__()
        self.network: Any = network
        self.scaling_factor = scaling_factor
        self.plan = plan

    def posterior(self, pixels: Tensor) -> Posterior:
        """Frames [B, 3, F, H, W] in -1..1 -> posterior, in one encoder call of any length."""
        with torch.no_grad():
            moments = encode_frames(self.network.encoder, _cast(pixels, self.network.encoder))
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


def encode_frames(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """Frames [B, 3, F, H, W] -> means and log-variances [B, 2 C, T, h, w]. No input is held longer than it is
    read; ``pixels`` are left as they are."""
    layers = cast(Any, encoder)
    x = convolve_frames(layers.conv_in, pixels)
    for block in layers.down_blocks:
        for resnet in block.resnets:
            x = _run_resnet(resnet, x)
        for downsampler in block.downsamplers or ():
            x = _downsample(downsampler, x)
    for resnet in layers.mid_block.resnets:
        x = _run_resnet(resnet, x)
    return convolve_frames(layers.conv_out, F.silu(layers.norm_out(x), inplace=True))


def _run_resnet(resnet: Any, x: Tensor) -> Tensor:
    hidden = convolve_frames(resnet.conv1, F.silu(resnet.norm1(x), inplace=True))
    hidden = convolve_frames(resnet.conv2, F.silu(resnet.norm2(hidden), inplace=True))
    if resnet.in_channels != resnet.out_channels:
        x = convolve(x, resnet.conv_shortcut.weight, resnet.conv_shortcut.bias, (0, 0, 0))
    return hidden.add_(x)


def _downsample(downsampler: Any, x: Tensor) -> Tensor:
    """Half the rows and columns, and the means of pairs of frames; the first of an odd number stays."""
    if downsampler.compress_time and x.shape[2] > 1:
        odd = x.shape[2] % 2
        means = (x[:, :, odd::2] + x[:, :, odd + 1 :: 2]).mul_(0.5)
        x = torch.cat((x[:, :, :1], means), dim=2) if odd else means
    frames = F.pad(x.transpose(1, 2).flatten(0, 1), (0, 1, 0, 1))
    return cast(Tensor, downsampler.conv(frames).unflatten(0, (len(x), -1)).transpose(1, 2))


class _Layers(nn.Module):
    """Layers and sizes by name, without a ``forward``."""

    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


Norm = Callable[[int], nn.Module]
"""Channels -> their norm."""


def build_vae(config: VAEConfig, plan: DecodePlan = DEFAULT_PLAN) -> VideoVAE:
    """On the meta device; ``plan`` is the default of its decodes."""
    latents, groups = config.latent_channels, config.norm_num_groups

    def spatial_norm(channels: int) -> nn.Module:
        return _Layers(
            norm_layer=nn.GroupNorm(groups, channels, NORM_EPS),
            conv_y=_causal(latents, channels, 1),
            conv_b=_causal(latents, channels, 1),
        )

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(groups, channels, config.norm_eps)

    widths, last = config.block_out_channels, config.block_out_channels[-1]
    with torch.device("meta"):
        encoder = _Layers(
            conv_in=_causal(3, widths[0]),
            down_blocks=_blocks(widths, config.layers_per_block, norm, "downsamplers"),
            mid_block=_Layers(resnets=_resnets(last, last, 2, norm)),
            norm_out=nn.GroupNorm(groups, last, NORM_EPS),
            conv_out=_causal(last, 2 * latents),
        )
        decoder = _Layers(
            conv_in=_causal(latents, last),
            mid_block=_Layers(resnets=_resnets(last, last, 2, spatial_norm)),
            up_blocks=_blocks(widths[::-1], config.layers_per_block + 1, spatial_norm, "upsamplers"),
            norm_out=spatial_norm(widths[0]),
            conv_out=_causal(widths[0], 3),
        )
        network = _Layers(encoder=encoder, decoder=decoder)
    return VideoVAE(network, config.scaling_factor, plan)


def _blocks(widths: Sequence[int], count: int, norm: Norm, samplers: str) -> nn.ModuleList:
    """Blocks of ``count`` resnets; all but the last have a sampler, two of them in time too."""
    blocks, stride = nn.ModuleList(), 2 if samplers == "downsamplers" else 1
    for level, (entering, width) in enumerate(pairwise((widths[0], *widths))):
        sampler = _Layers(conv=nn.Conv2d(width, width, 3, stride, 2 - stride), compress_time=level < 2)
        sampled = nn.ModuleList([sampler]) if level < len(widths) - 1 else None
        blocks.append(_Layers(resnets=_resnets(entering, width, count, norm), **{samplers: sampled}))
    return blocks


def _resnets(entering: int, width: int, count: int, norm: Norm) -> nn.ModuleList:
    return nn.ModuleList(
        _Layers(
            in_channels=channels,
            out_channels=width,
            norm1=norm(channels),
            norm2=norm(width),
            conv1=_causal(channels, width),
            conv2=_causal(width, width),
            **({} if channels == width else {"conv_shortcut": nn.Conv3d(channels, width, 1)}),
        )
        for channels in (entering, *(width,) * (count - 1))
    )


def _causal(inputs: int, outputs: int, size: int = 3) -> nn.Module:
    return _Layers(conv=nn.Conv3d(inputs, outputs, size))
