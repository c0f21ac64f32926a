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
from torch.nn import functional as F

from ..geometry import LatentShape
from .causal_conv import Access, CausalCache, Convolver, Strip, StripInput, cache_in, copied
from .spatial_norm import normalized, piece_of
from .tiling import DecodePlan, cuts, least_strips


def repeats(frames: int, *, in_time: bool) -> list[tuple[int, int, int]]:
    """First and last + 1 frame of every stretch, and how often each of its frames is put out: the first of an
    odd number stands alone."""
    if not in_time or frames == 1:
        return [(0, frames, 1)]
    return [(0, 1, 1), (1, frames, 2)] if frames % 2 else [(0, frames, 2)]


def upsampled(upsampler: nn.Module, x: Tensor, cuts: list[tuple[int, int]], access: Access) -> Tensor:
    """x [B, C, T, H, W] -> [B, C', T or 2 T or 2 T - 1, 2 H, 2 W], in strips of ``cuts``."""
    known = cast(Any, upsampler)
    batch, _, frames, height, width = x.shape
    stretches = repeats(frames, in_time=known.compress_time)
    total = sum((last - first) * times for first, last, times in stretches)
    out = x.new_empty(batch, known.conv.out_channels, total, 2 * height, 2 * width)
    with access.parameters(known.conv, x) as (weight, bias):
        start = 0
        for first, last, times in stretches:
            step = frames_at_once(x, cuts)
            for frame in range(first, last, step):
                some = x[:, :, frame : min(frame + step, last)]
                stop = start + some.shape[2] * times
                for cut in cuts:
                    _convolved(some, cut, (weight, bias), out[:, :, start:stop], times)
                start = stop
    return out


def frames_at_once(x: Tensor, cuts: list[tuple[int, int]]) -> int:
    """Frames of a strip that are convolved together."""
    rows = max(last - first for first, last in cuts)
    return piece_of(x, x.shape[0] * x.shape[1] * 4 * rows * x.shape[4])


def _convolved(
    x: Tensor, cut: tuple[int, int], held: tuple[Tensor, Tensor | None], out: Tensor, times: int
) -> None:
    """Rows ``cut`` of x, at twice their size, into their place. A row more on either side gives the right
    edges, and two rows too many, which are dropped."""
    first, last = cut
    above, below = max(first - 1, 0), min(last + 1, x.shape[3])
    batch, _, frames = x.shape[:3]
    large = F.interpolate(x[:, :, :, above:below].transpose(1, 2).flatten(0, 1), scale_factor=2.0)
    made = torch.conv2d(large, held[0], held[1], padding=1)
    del large
    made = made[:, :, 2 * (first - above) : 2 * (last - above)]
    made = made.view(batch, frames, *made.shape[1:]).transpose(1, 2)
    for copy in range(times):
        out[:, :, copy::times, 2 * first : 2 * last] = made


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

    def _whole(self, name: str, convolution: nn.Module, source: StripInput) -> Tensor:
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

    def _strips(self, name: str, convolution: nn.Module, source: StripInput) -> Iterator[Strip]:
        return self.convolver.strips(name, convolution, source, self._cuts(source.like))

    def _normalized(self, norm: nn.Module, x: Tensor) -> StripInput:
        return normalized(norm, x, self.latents, self.convolver.access)

    def _cuts(self, x: Tensor) -> list[tuple[int, int]]:
        rows = self.latents.shape[3]
        return cuts(rows, self.strips, x.shape[3] // rows)
