"""The 3D VAE's decoder, run strip by strip over another library's modules, to need little memory.

diffusers' decoder holds a whole slice of frames several times, and ComfyUI's computes group norms over the
whole clip. Both name their layers alike, so both can be run here; no module is moved, cast or changed.

The spatial norms are group norms with scale and shift from the latents (facts 7). Their two pointwise
convolutions run at the latents' size and are enlarged by nearest neighbour, which commutes with them;
statistics span the whole slice. B batch, C channels, G groups, T frames, n latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import LatentShape
from .causal_conv import (
    LOOK_BACK,
    CausalCache,
    DecodePlan,
    LayerAccess,
    Strip,
    StripConvolver,
    StripInput,
    WeightAndBias,
    carve,
    cuts,
    memory_format,
    min_strips,
)

CHUNK_ELEMENTS = {"cpu": 2**22}
"""Elements processed at a time, by device type: few enough for a CPU's caches."""
MAX_CHUNK_ELEMENTS = 2**25
"""On all other devices: few launches, but small temporaries."""
OWN_PARAMETERS = LayerAccess()


def decode_parts(
    decoder: nn.Module,
    parts: Sequence[Tensor],
    plan: DecodePlan,
    access: LayerAccess = OWN_PARAMETERS,
    cache: CausalCache | None = None,
) -> Iterator[Tensor]:
    """Slices of unscaled latents [B, C, n, h, w] -> frames [B, 3, F, H, W], each decoded when it is read. The
    causal cache belongs to this generator; closing it leaves nothing behind. Golden
    ``vae_decode_chunked``."""
    channels = cast(Any, decoder).up_blocks[-1].resnets[0].conv1.conv.in_channels
    strips = max([plan.strips, *(min_strips(channels, LatentShape(*part.shape[2:])) for part in parts)])
    needs, caches = [_count(decoder, part, strips) for part in parts], cache or CausalCache(plan.caches)
    caches.reserve(needs[0].cached, parts[0])
    sizes = zip(*(need.slots for need in needs if parts[0].device.type != "cpu"), strict=True)
    slots: list[Any] = [parts[0].new_empty(max(size)) for size in sizes]
    *outputs, memory = slots or [None]
    convolver = StripConvolver(caches, access, memory)
    for part in parts:
        with torch.no_grad():
            frames = _SliceDecoder(part, convolver, strips, cycle(outputs)).decode(decoder)
        yield frames
        del frames


class _Counts(NamedTuple):
    """Numbers of a slice: ``cached`` in all causal caches. Two ``slots`` take the results of layers in turn,
    the third has the buffers of strips. At whole height there is none: a convolution's own output is used. A
    CPU's memory does not break into pieces: there each is made when it is used."""

    cached: int
    slots: tuple[int, ...]


def _count(decoder: nn.Module, latents: Tensor, strips: int) -> _Counts:
    layers, (batch, _, frames, height, width) = cast(Any, decoder), latents.shape
    edges = cuts(height, strips, 1)
    rows = max(last - first for first, last in edges)
    cached, buffer, scale, outputs = 0, 0, 1, list[int]()

    def enter(convolution: Any) -> None:
        nonlocal cached, buffer
        row = batch * convolution.conv.in_channels * scale * width
        cached += LOOK_BACK * scale * height * row
        buffer = max(buffer, (LOOK_BACK + frames) * (scale * rows + 3) * row)

    def leave(convolution: Any) -> None:
        outputs.append(batch * convolution.out_channels * frames * scale * height * scale * width)

    enter(layers.conv_in)
    leave(layers.conv_in.conv)
    for block in (layers.mid_block, *layers.up_blocks):
        for resnet in block.resnets:
            enter(resnet.conv1)
            enter(resnet.conv2)
            leave(resnet.conv1.conv)
        for upsampler in getattr(block, "upsamplers", None) or ():
            frames = sum((b - a) * n for a, b, n in repeats(frames, in_time=upsampler.compress_time))
            scale *= 2
            leave(upsampler.conv)
    enter(layers.conv_out)
    return _Counts(cached, () if len(edges) == 1 else (max(outputs[::2]), max(outputs[1::2]), buffer))


@dataclass(frozen=True, slots=True)
class _SliceDecoder:
    """``slots`` take results of layers in turn; without them each is made when it is used."""

    latents: Tensor
    convolver: StripConvolver
    strips: int
    slots: Iterator[Tensor]

    def decode(self, decoder: nn.Module) -> Tensor:
        layers = cast(Any, decoder)
        source = StripInput(
            lambda out, first, last: out.copy_(self.latents[:, :, :, first:last]), self.latents
        )
        x = self._convolve("conv_in", layers.conv_in, source)
        for index, resnet in enumerate(layers.mid_block.resnets):
            x = self._resnet(f"mid_block.resnets.{index}", resnet, x)
        for level, block in enumerate(layers.up_blocks):
            for index, resnet in enumerate(block.resnets):
                x = self._resnet(f"up_blocks.{level}.resnets.{index}", resnet, x)
            for upsampler in block.upsamplers or ():
                x = upsample(upsampler, x, self._cuts(x), self.convolver.access, self._empty)
        source = self._normalize(layers.norm_out, x)
        return self._convolve("conv_out", layers.conv_out, source, last=True)

    def _empty(self, like: Tensor, *shape: int) -> Tensor:
        order, slot = memory_format(like), next(self.slots, None)
        if slot is not None:
            return carve(slot, shape, order)
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)

    def _resnet(self, name: str, resnet: nn.Module, x: Tensor) -> Tensor:
        """Norm, convolution, norm, convolution, plus the input."""
        layers = cast(Any, resnet)
        hidden = self._convolve(f"{name}.conv1", layers.conv1, self._normalize(layers.norm1, x))
        source = self._normalize(layers.norm2, hidden)
        has_shortcut = layers.in_channels != layers.out_channels
        for strip in self._strips(f"{name}.conv2", layers.conv2, source):
            rows = hidden[:, :, :, strip.first : strip.last]
            if has_shortcut:
                rows.copy_(strip.rows)
            else:
                torch.add(strip.rows, x[:, :, :, strip.first : strip.last], out=rows)
            del strip  # before the next one is computed
        if has_shortcut:
            del source
            access = self.convolver.access
            with access.parameters(layers.conv_shortcut, x) as (weight, bias):
                for first, last in self._cuts(x):
                    rows = x[:, :, :, first:last]
                    if last - first < x.shape[3]:
                        rows = self.convolver.buffer(x, rows.shape).copy_(rows)
                    shortcut = access.convolve(rows, weight, bias, (0, 0, 0))
                    hidden[:, :, :, first:last].add_(shortcut)
                    del shortcut  # before the next one is computed
        return hidden

    def _convolve(self, name: str, convolution: nn.Module, source: StripInput, last: bool = False) -> Tensor:
        """The ``last`` output is the caller's, others are in a slot."""
        out: Tensor | None = None
        is_whole = len(self._cuts(source.like)) == 1
        for strip in self._strips(name, convolution, source):
            if is_whole:
                out = strip.rows
                continue
            if out is None:
                shape = *strip.rows.shape[:2], *source.like.shape[2:]
                out = strip.rows.new_empty(shape) if last else self._empty(strip.rows, *shape)
            out[:, :, :, strip.first : strip.last] = strip.rows
            del strip  # before the next one is computed
        return cast(Tensor, out)

    def _strips(self, name: str, convolution: nn.Module, source: StripInput) -> Iterator[Strip]:
        return self.convolver.strips(name, convolution, source, self._cuts(source.like))

    def _normalize(self, norm: nn.Module, x: Tensor) -> StripInput:
        return norm_input(norm, x, self.latents, self.convolver.access)

    def _cuts(self, x: Tensor) -> list[tuple[int, int]]:
        rows = self.latents.shape[3]
        return cuts(rows, self.strips, x.shape[3] // rows)


def repeats(frames: int, *, in_time: bool) -> list[tuple[int, int, int]]:
    """(first, last + 1, times): how often each frame of a span is repeated; the first of an odd number is
    not."""
    if not in_time or frames == 1:
        return [(0, frames, 1)]
    return [(0, 1, 1), (1, frames, 2)] if frames % 2 else [(0, frames, 2)]


def upsample(
    upsampler: nn.Module,
    x: Tensor,
    cuts: list[tuple[int, int]],
    access: LayerAccess,
    empty: Callable[..., Tensor] = torch.Tensor.new_empty,
) -> Tensor:
    """x [B, C, T, H, W] -> [B, C', T or 2 T or 2 T - 1, 2 H, 2 W], in strips of ``cuts``. ``empty`` makes the
    result, like a tensor, of a shape."""
    layers = cast(Any, upsampler)
    batch, channels, frames, height, width = x.shape
    spans = repeats(frames, in_time=layers.compress_time)
    total = sum((last - first) * times for first, last, times in spans)
    out = empty(x, batch, layers.conv.out_channels, total, 2 * height, 2 * width)
    rows = max(last - first for first, last in cuts)
    step = chunk_size(x, batch * channels * 4 * rows * width)
    with access.parameters(layers.conv, x) as parameters:
        start = 0
        for first, last, times in spans:
            for frame in range(first, last, step):
                chunk = x[:, :, frame : min(frame + step, last)]
                stop = start + chunk.shape[2] * times
                for cut in cuts:
                    _upsample_rows(chunk, cut, parameters, out[:, :, start:stop], times)
                start = stop
    return out


def _upsample_rows(
    x: Tensor, cut: tuple[int, int], parameters: WeightAndBias, out: Tensor, times: int
) -> None:
    """Enlarge and convolve rows ``cut`` of x. One more row on each side gives the right edges; what they
    output is dropped."""
    first, last = cut
    above, below = max(first - 1, 0), min(last + 1, x.shape[3])
    batch, _, frames = x.shape[:3]
    large = F.interpolate(x[:, :, :, above:below].transpose(1, 2).flatten(0, 1), scale_factor=2.0)
    convolved = torch.conv2d(large, *parameters, padding=1)
    del large
    convolved = convolved[:, :, 2 * (first - above) : 2 * (last - above)]
    convolved = convolved.view(batch, frames, *convolved.shape[1:]).transpose(1, 2)
    for copy in range(times):
        out[:, :, copy::times, 2 * first : 2 * last] = convolved


def frame_spans(frames: int, latents: int) -> list[tuple[slice, slice]]:
    """Frames, and the latent frames that they read, each by an equal number of frames: the first of an odd
    number of frames has one to itself."""
    if frames > 1 and frames % 2:
        return [(slice(0, 1), slice(0, 1)), (slice(1, frames), slice(1, latents))]
    return [(slice(0, frames), slice(0, latents))]


def chunk_size(x: Tensor, elements: int) -> int:
    """How many times ``elements`` elements to process at a time, at least once."""
    return max(1, CHUNK_ELEMENTS.get(x.device.type, MAX_CHUNK_ELEMENTS) // max(1, elements))


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, G] of each group of channels of x [B, C, T, H, W], in at least float32. They are
    computed per channel and frame, then joined: no sum is long."""
    rows, axis = x.flatten(3), 2 if is_channels_last(x) else 1
    step = chunk_size(x, rows.select(axis, 0).numel())
    parts = [_row_moments(part) for part in torch.split(rows, step, dim=axis)]
    means, variances = (torch.cat(each, axis).view(len(x), groups, -1) for each in zip(*parts, strict=True))
    between, mean = torch.var_mean(means, dim=-1, correction=0)
    return mean, variances.mean(dim=-1) + between


def _row_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each row of [B, C, T, N]. 16-bit rows are summed in float32 as they are read;
    their few digits lose nothing in the difference of the two sums."""
    if rows.element_size() < 4:
        if rows.device.type == "cpu":  # torch would convert them for each sum
            numbers = rows.permute(0, 2, 3, 1).double()
            share = numbers.new_full((rows.shape[-1],), 1 / rows.shape[-1])
            mean, square = share @ numbers, share @ numbers.square_()
            variance = (square - mean.square()).clamp_min_(0)
            return mean.float().transpose(1, 2), variance.float().transpose(1, 2)
        mean = rows.sum(dim=-1, dtype=torch.float32) / rows.shape[-1]
        return mean, (_mean_square(rows) - mean.square()).clamp_min_(0)
    mean = rows.mean(dim=-1)
    return mean, _mean_square(rows - mean[..., None])


def _mean_square(rows: Tensor) -> Tensor:
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return cast(Tensor, torch.linalg.vector_norm(rows, dim=-1, dtype=dtype)).square() / rows.shape[-1]


def spatial_modulation(
    norm: nn.Module, x: Tensor, latents: Tensor, access: LayerAccess
) -> tuple[Tensor, Tensor]:
    """Scale and shift [B, C, n, h, w], in at least float32: the norm of x [B, C, T, H, W] is x * scale +
    shift."""
    layers = cast(Any, norm)
    y, b = (convolve_pointwise(layer.conv, latents, access) for layer in (layers.conv_y, layers.conv_b))
    mean, variance = group_moments(x, layers.norm_layer.num_groups)
    with access.parameters(layers.norm_layer, x) as (weight, bias):
        rate = torch.rsqrt(variance + layers.norm_layer.eps)[..., None]
        scale = weight.to(rate.dtype).view(1, rate.shape[1], -1) * rate
        shift = cast(Tensor, bias).to(rate.dtype).view(1, rate.shape[1], -1) - mean[..., None] * scale
    scale, shift = scale.flatten(1)[..., None, None, None], shift.flatten(1)[..., None, None, None]
    y, b = y.to(rate.dtype), b.to(rate.dtype)
    return y * scale, torch.addcmul(b, y, shift)


def convolve_pointwise(layer: nn.Module, x: Tensor, access: LayerAccess) -> Tensor:
    with access.parameters(layer, x) as (weight, bias):
        return access.convolve(x, weight, bias, (0, 0, 0))


def norm_input(norm: nn.Module, x: Tensor, latents: Tensor, access: LayerAccess) -> StripInput:
    """SiLU of the spatial norm of x [B, C, T, H, W] as a convolution's input, filled by whole latent rows."""
    modulation = spatial_modulation(norm, x, latents, access)
    spans = frame_spans(x.shape[2], latents.shape[2])

    down, across = (x.shape[axis] // latents.shape[axis] for axis in (3, 4))
    if is_last := is_channels_last(x):
        modulation = [each.contiguous(memory_format=torch.channels_last_3d) for each in modulation]
    spread = partial(split_by_latents, down=down, across=across if is_last else 1)
    converts = x.device.type == "cpu" and x.dtype != modulation[0].dtype  # torch would, in several tensors

    def fill(destination: Tensor, first: int, last: int) -> None:
        for frames, part in spans:
            step = down * chunk_size(x, destination[:, :, frames, :down].numel())
            for top in range(first, last, step):
                bottom = min(top + step, last)
                rows = slice(top // down, bottom // down)
                small = (each[:, :, part, rows] for each in modulation)
                scale, shift = (
                    (each if is_last else enlarge_width(each, across))[:, :, :, None, :, None, :, None]
                    for each in small
                )
                source, piece = (
                    x[:, :, frames, top:bottom],
                    destination[:, :, frames, top - first : bottom - first],
                )
                if converts:
                    source = source.to(scale.dtype)
                out = source if converts else piece
                latent = scale.shape[2]
                torch.addcmul(shift, spread(source, latent), scale, out=spread(out, latent))
                F.silu(out, inplace=True)
                if converts:
                    piece.copy_(out)
                del scale, shift  # before the next ones are computed

    return StripInput(fill, x)


def split_by_latents(x: Tensor, latents: int, down: int, across: int) -> Tensor:
    """View of [B, C, T, H, W] as [B, C, n, T/n, h, H/h, w, W/w]."""
    parts = cast(Any, x).unflatten(4, (-1, across)).unflatten(3, (-1, down))
    return cast(Tensor, parts.unflatten(2, (latents, -1)))


def is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1


def enlarge_width(latent: Tensor, across: int) -> Tensor:
    """Repeat [B, C, n, h, w] over the picture's width."""
    return latent if across == 1 else latent[..., None].expand(*latent.shape, across).flatten(-2)
