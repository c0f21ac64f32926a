"""Paste the animated part of a portrait back into its photograph, without a visible edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import PixelBox, VideoShape
from .canvas import resize
from .framing import Crop

MAX_PHOTOGRAPH_SIDE = 1920
"""Pixels of a pasted-back video's longer side."""
FEATHER = 0.06
"""Width of the soft edge, relative to the place's shorter side."""
EDGE_TOLERANCE = 1.0
"""Distance in pixels at which an edge of the place counts as the photograph's edge, and is not soft."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PasteBack:
    """A photograph, uint8 [3, H, W] with even sides, and the ``place`` of the canvas on it, in pixels."""

    photograph: Tensor
    place: PixelBox

    @property
    def height(self) -> int:
        return self.photograph.shape[1]

    @property
    def width(self) -> int:
        return self.photograph.shape[2]

    def paste(self, frames: Tensor) -> Tensor:
        """Frames without bars [F, 3, h, w] in 0..1 -> [F, 3, H, W] float32 in 0..1 on the photograph. Outside
        of the place the photograph is unchanged. Takes the memory of the result and of one frame."""
        left, top, right, bottom = self.place
        feather = FEATHER * min(right - left, bottom - top)
        down = _Axis.of(top, bottom, self.height, frames.shape[2], feather)
        across = _Axis.of(left, right, self.width, frames.shape[3], feather)
        still = self.photograph.float() / 255
        pasted = still.expand(len(frames), -1, -1, -1).clone()
        share = (down.share[:, None] * across.share).to(still)
        for into, frame in zip(pasted, frames, strict=True):
            part = into[:, down.pixels, across.pixels]
            resized = down.weights @ frame.to(still) @ across.weights.T
            part.lerp_(resized.clamp_(0, 1), share.expand_as(part))
        return pasted


def make_paste_back(picture: Tensor, crop: Crop, shape: VideoShape) -> PasteBack:
    """The photograph around a crop of a picture [3, h, w] in 0..1, and the place of what the canvas shows.
    Its longer side is at most ``MAX_PHOTOGRAPH_SIDE``; an odd last row or column is cut off, for codecs."""
    h, w = picture.shape[1:]
    scale = min(1.0, MAX_PHOTOGRAPH_SIDE / max(h, w))
    size = max(2, round(h * scale)), max(2, round(w * scale))
    photograph = torch.empty(3, size[0] // 2 * 2, size[1] // 2 * 2, dtype=torch.uint8)
    for into, channel in zip(photograph, picture[:, None], strict=True):
        whole = channel if size == (h, w) else resize(channel, size, "bicubic")
        into.copy_((whole[0, : into.shape[0], : into.shape[1]].clamp(0, 1) * 255).round())
    left, top, right, bottom = crop.visible_box(shape)
    x, y = size[1] / w, size[0] / h
    return PasteBack(photograph=photograph, place=PixelBox(left * x, top * y, right * x, bottom * y))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Axis:
    """One direction of pasting: the photograph's n ``pixels`` that change, ``weights`` [n, side] to resample
    a frame to them, and the frame's ``share`` [n] in them."""

    pixels: slice
    weights: Tensor
    share: Tensor

    @classmethod
    def of(cls, low: float, high: float, limit: int, side: int, feather: float) -> _Axis:
        """From ``low`` to ``high`` of ``limit`` pixels, for frames with ``side`` pixels."""
        at_start, at_end = low <= EDGE_TOLERANCE, high >= limit - EDGE_TOLERANCE
        first = 0 if at_start else max(0, round(low))
        last = limit if at_end else min(limit, max(first + 1, round(high)))
        middles = torch.arange(first, last, dtype=torch.float64) + 0.5
        share = torch.ones_like(middles)
        for at_edge, distance in ((at_start, middles - low), (at_end, high - middles)):
            if not at_edge:
                ramp = (distance / feather).clamp(0, 1)
                share *= ramp * ramp * (3 - 2 * ramp)
        weights = _make_resampling((middles - low) * side / (high - low), side, side / (high - low))
        return cls(pixels=slice(first, last), weights=weights.float(), share=share.float())


def _make_resampling(positions: Tensor, side: int, scale: float) -> Tensor:
    """Weights [n, side] of a frame's pixels at n positions: cubic (a = -0.5), antialiased if it shrinks.
    torch's ``interpolate`` cannot place a frame between the pixels of a photograph."""
    width = max(1.0, scale)
    distance = (positions[:, None] - (torch.arange(side, dtype=torch.float64) + 0.5)).abs() / width
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
