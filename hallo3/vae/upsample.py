"""Upsampling: nearest neighbours in space, in time where a level doubles it, then a convolution a frame.

Two frames that would be copies of one are convolved once. No more than a few frames of a strip are held at
the upper size beside the output.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .access import Access
from .spatial import piece_of


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
