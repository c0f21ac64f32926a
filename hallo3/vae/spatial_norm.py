"""The decoder's norm: a group norm whose scale and shift are looked up in the latents (facts 7).

The two pointwise convolutions of the latents are made at their own size and spread to the picture's by the
nearest neighbour, which commutes with them. Statistics span the whole slice; norm, modulation and SiLU are
then two passes over the rows that are asked for. B batch, C channels, G groups, T frames, n latent frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .causal_conv import Access, StripInput

PIECE = {"cpu": 2**22}
"""Elements that are worked on at a time on a kind of device: few stay in a CPU's caches."""
LARGE_PIECE = 2**25
"""The same on all others: few launches, and little memory where a temporary is needed."""


class Run(NamedTuple):
    """Frames first..last, an equal number for each of the latent frames ``latent_first``..``latent_last``."""

    first: int
    last: int
    latent_first: int
    latent_last: int


def runs(frames: int, latents: int) -> list[Run]:
    """Which latent frame each frame looks at: the first of an odd number of frames has one to itself."""
    if frames > 1 and frames % 2:
        return [Run(0, 1, 0, 1), Run(1, frames, 1, latents)]
    return [Run(0, frames, 0, latents)]


def piece_of(x: Tensor, pixels: int) -> int:
    """How many times ``pixels`` elements are a piece of x, at least once."""
    return max(1, PIECE.get(x.device.type, LARGE_PIECE) // max(1, pixels))


def wider(dtype: torch.dtype) -> torch.dtype:
    """The type to count in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, G] of every group of channels of x [B, C, T, H, W], in float32 or wider.

    Every channel of every frame is measured by itself, and the figures are joined: no sum is long.
    """
    rows = x.flatten(3)
    step = piece_of(x, rows[:, :1].numel())
    parts = [_row_moments(part) for part in torch.split(rows, step, dim=1)]
    means, variances = (torch.cat(found, dim=1) for found in zip(*parts, strict=True))
    means, variances = means.view(len(x), groups, -1), variances.view(len(x), groups, -1)
    between, mean = torch.var_mean(means, dim=-1, correction=0)
    return mean, variances.mean(dim=-1) + between


def _row_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every row, rows [B, C, T, N]. Half types are summed in float32 as they are read;
    they know too few digits for the difference of the two sums to lose any that count."""
    count = rows.shape[-1]
    if wider(rows.dtype) != rows.dtype:
        mean = rows.sum(dim=-1, dtype=torch.float32) / count
        return mean, (_mean_square(rows) - mean.square()).clamp_min_(0)
    mean = rows.mean(dim=-1)
    return mean, _mean_square(rows - mean[..., None])


def _mean_square(rows: Tensor) -> Tensor:
    norm = cast(Tensor, torch.linalg.vector_norm(rows, dim=-1, dtype=wider(rows.dtype)))
    return norm.square() / rows.shape[-1]


class SpatialModulation(NamedTuple):
    """What the norm amounts to: x * scale + shift, both [B, C, n, h, w], in float32 or wider."""

    scale: Tensor
    shift: Tensor


def modulation(norm: nn.Module, x: Tensor, latents: Tensor, access: Access) -> SpatialModulation:
    """Statistics of x [B, C, T, H, W] and the looked-up scale and shift in one."""
    known = cast(Any, norm)
    looked_up = [pointwise(known.conv_y.conv, latents, access), pointwise(known.conv_b.conv, latents, access)]
    mean, variance = moments(x, known.norm_layer.num_groups)
    with access.parameters(known.norm_layer, x) as (weight, bias):
        per_group = torch.rsqrt(variance + known.norm_layer.eps)[..., None]
        kind = per_group.dtype
        scale = weight.to(kind).view(1, per_group.shape[1], -1) * per_group
        shift = cast(Tensor, bias).to(kind).view(1, per_group.shape[1], -1) - mean[..., None] * scale
    scale, shift = scale.flatten(1)[..., None, None, None], shift.flatten(1)[..., None, None, None]
    y, b = (each.to(kind) for each in looked_up)
    return SpatialModulation(y * scale, torch.addcmul(b, y, shift))


def pointwise(layer: nn.Module, x: Tensor, access: Access) -> Tensor:
    """A convolution that sees one pixel."""
    with access.parameters(layer, x) as (weight, bias):
        return access.convolve(x, weight, bias, (0, 0, 0))


def normalized(norm: nn.Module, x: Tensor, latents: Tensor, access: Access) -> StripInput:
    """SiLU of the modulated norm of x [B, C, T, H, W] as a convolution's input, made in whole latent rows."""
    found = modulation(norm, x, latents, access)
    spans = runs(x.shape[2], latents.shape[2])

    def fill(destination: Tensor, first: int, last: int) -> None:
        step = piece_of(x, destination[:, :1].numel())
        for channel in range(0, x.shape[1], step):
            some = slice(channel, channel + step)
            for span in spans:
                _apply(found, x, destination, span, some, (first, last))
            F.silu(destination[:, some], inplace=True)

    return StripInput(fill, x.shape, x)


def _apply(
    found: SpatialModulation, x: Tensor, destination: Tensor, span: Run, some: slice, rows: tuple[int, int]
) -> None:
    """x * scale + shift of a piece: some channels, frames and rows."""
    frames = slice(span.first, span.last)
    down, across = x.shape[3] // found.scale.shape[3], x.shape[4] // found.scale.shape[4]
    place = some, slice(span.latent_first, span.latent_last), slice(rows[0] // down, rows[1] // down)
    scale, shift = (spread(each[:, *place], across) for each in found)
    grid = span.latent_last - span.latent_first, down
    source = by_latents(x[:, some, frames, rows[0] : rows[1]], *grid)
    torch.addcmul(shift, source, scale, out=by_latents(destination[:, some, frames], *grid))


def by_latents(x: Tensor, latents: int, down: int) -> Tensor:
    """[B, C, T, H, W] seen as [B, C, n, T/n, h, H/h, W]."""
    return cast(Tensor, cast(Tensor, x.unflatten(3, (-1, down))).unflatten(2, (latents, -1)))


def spread(latent: Tensor, across: int) -> Tensor:
    """Latent values [B, C, n, h, w] over the width of a picture, ready to meet [B, C, n, T/n, h, H/h, W]."""
    wide = latent if across == 1 else latent[..., None].expand(*latent.shape, across).flatten(-2)
    return wide[:, :, :, None, :, None]
