"""The decoder of the 3D VAE, walked by this package over another's modules: what it holds at once is small.

diffusers' and ComfyUI's classes name their layers alike; both can be walked. No module is moved, cast or
written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..shapes import LatentShape
from .access import Access
from .caches import CausalCache, cache_in
from .causal import Convolver, Source, Strip, copied
from .plan import DecodePlan, cuts, least_strips
from .spatial import normalized
from .upsample import upsampled

NETWORKS_OWN = Access()


def decode_parts(
    decoder: nn.Module,
    parts: Sequence[Tensor],
    plan: DecodePlan,
    access: Access = NETWORKS_OWN,
    cache: CausalCache | None = None,
) -> Iterator[Tensor]:
    """Slices of unscaled latents [B, C, n, h, w] -> frames [B, 3, F, H, W], each when it is asked for.

    The frames that convolutions look back at are this generator's; giving it up leaves nothing behind. Golden
    ``vae_decode_chunked``.
    """
    if cache is None:
        cache = cache_in(plan.caches)
    channels = cast(Any, decoder).up_blocks[-1].resnets[0].conv1.conv.in_channels
    strips = max([plan.strips, *(least_strips(channels, LatentShape(*part.shape[2:])) for part in parts)])
    convolver = Convolver(cache, access)
    for part in parts:
        with torch.no_grad():
            frames = _Slice(part, convolver, strips).decoded(decoder)
        yield frames
        del frames


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice of latents on its way through the decoder."""

    latents: Tensor
    convolver: Convolver
    strips: int

    def decoded(self, decoder: nn.Module) -> Tensor:
        known = cast(Any, decoder)
        x = self._whole("conv_in", known.conv_in, copied(self.latents))
        for index, resnet in enumerate(known.mid_block.resnets):
            x = self._resnet(f"mid_block.resnets.{index}", resnet, x)
        for level, block in enumerate(known.up_blocks):
            for index, resnet in enumerate(block.resnets):
                x = self._resnet(f"up_blocks.{level}.resnets.{index}", resnet, x)
            for upsampler in block.upsamplers or ():
                x = upsampled(upsampler, x, self._cuts(x), self.convolver.access)
        return self._whole("conv_out", known.conv_out, self._normalized(known.norm_out, x))

    def _resnet(self, name: str, resnet: nn.Module, x: Tensor) -> Tensor:
        """norm, convolution, norm, convolution, and the input added."""
        known = cast(Any, resnet)
        hidden = self._whole(f"{name}.conv1", known.conv1, self._normalized(known.norm1, x))
        source = self._normalized(known.norm2, hidden)
        alike = known.in_channels == known.out_channels
        for strip in self._strips(f"{name}.conv2", known.conv2, source):
            place = hidden[:, :, :, strip.first : strip.last]
            if alike:
                torch.add(strip.rows, x[:, :, :, strip.first : strip.last], out=place)
            else:
                place.copy_(strip.rows)
            del strip  # before the next one is made
        if not alike:
            del source
            self._add_shortcut(known.conv_shortcut, x, hidden)
        return hidden

    def _add_shortcut(self, shortcut: nn.Module, x: Tensor, hidden: Tensor) -> None:
        """Add x, brought to the channels of ``hidden``, which is written over."""
        access = self.convolver.access
        with access.parameters(shortcut, x) as (weight, bias):
            for first, last in self._cuts(x):
                brought = access.convolve(x[:, :, :, first:last].contiguous(), weight, bias, (0, 0, 0))
                hidden[:, :, :, first:last].add_(brought)
                del brought  # before the next is made

    def _whole(self, name: str, convolution: nn.Module, source: Source) -> Tensor:
        """A convolution's output, all of it."""
        whole: Tensor | None = None
        for strip in self._strips(name, convolution, source):
            if strip.last - strip.first == source.shape[3]:
                whole = strip.rows
                continue
            if whole is None:
                whole = strip.rows.new_empty(*strip.rows.shape[:2], *source.shape[2:])
            whole[:, :, :, strip.first : strip.last] = strip.rows
            del strip  # before the next one is made
        return cast(Tensor, whole)

    def _strips(self, name: str, convolution: nn.Module, source: Source) -> Iterator[Strip]:
        return self.convolver.strips(name, convolution, source, self._cuts(source.like))

    def _normalized(self, norm: nn.Module, x: Tensor) -> Source:
        return normalized(norm, x, self.latents, self.convolver.access)

    def _cuts(self, x: Tensor) -> list[tuple[int, int]]:
        rows = self.latents.shape[3]
        return cuts(rows, self.strips, x.shape[3] // rows)
