"""Paste back: the animated part of a portrait in its full photograph, without a visible edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import PixelBox, VideoShape
from .canvas import resize
from .framing import Crop

LONGEST = 1920
"""Pixels of a pasted-back video's longer side, at most."""
FEATHER = 0.06
"""Width of the soft edge, in shares of the place's shorter side."""
TOUCHING = 1.0
"""Pixels from the photograph's edge within which the place's edge is the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PasteBack:
    """A photograph, uint8 [3, H, W] with even sides, and where on it the canvas' picture belongs.

    ``place`` is in pixels of the photograph and may lie between them.
    """

    photograph: Tensor
    place: PixelBox

    @property
    def height(self) -> int:
        """Rows of a pasted-back frame."""
        return self.photograph.shape[1]

    @property
    def width(self) -> int:
        """Columns of a pasted-back frame."""
        return self.photograph.shape[2]

    def around(self, frames: Tensor) -> Tensor:
        """Frames without bars [F, 3, h, w] in 0..1 -> [F, 3, H, W] float32 in 0..1 on the photograph.

        Outside of the place the photograph stays exactly as it is. The work is done frame by frame: it
        takes the memory of the result and of one frame.
        """
        down = _Side.of(self.place.top, self.place.bottom, self.height, frames.shape[2], self.feather)
        across = _Side.of(self.place.left, self.place.right, self.width, frames.shape[3], self.feather)
        still = self.photograph.float() / 255
        pasted = still.expand(len(frames), -1, -1, -1).clone()
        share = (down.share[:, None] * across.share).to(still)
        for into, frame in zip(pasted, frames, strict=True):
            part = into[:, down.pixels, across.pixels]
            moved = down.weights @ frame.to(still) @ across.weights.T
            part.lerp_(moved.clamp_(0, 1), share.expand_as(part))
        return pasted

    @property
    def feather(self) -> float:
        """Width of the soft edge in pixels of the photograph."""
        left, top, right, bottom = self.place
        return FEATHER * min(right - left, bottom - top)


def make_paste_back(picture: Tensor, crop: Crop, shape: VideoShape) -> PasteBack:
    """The photograph round a crop of a picture [3, h, w] in 0..1, and the place of what is shown of it.

    A photograph with a side longer than ``LONGEST`` is scaled down to it; after that an odd last row or
    column is cut off, because video codecs want even sides.
    """
    h, w = picture.shape[1:]
    scale = min(1.0, LONGEST / max(h, w))
    size = max(2, round(h * scale)), max(2, round(w * scale))
    photograph = torch.empty(3, size[0] // 2 * 2, size[1] // 2 * 2, dtype=torch.uint8)
    for into, channel in zip(photograph, picture[:, None], strict=True):
        whole = channel if size == (h, w) else resize(channel, size, "bicubic")
        into.copy_((whole[0, : into.shape[0], : into.shape[1]].clamp(0, 1) * 255).round())
    left, top, right, bottom = crop.shown(shape)
    x, y = size[1] / w, size[0] / h
    return PasteBack(
        photograph=photograph,
        place=PixelBox(left * x, top * y, right * x, bottom * y),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """One direction of pasting: the photograph's n pixels that change, ``weights`` [n, frame's side] that
    make them of a frame's, and the frame's ``share`` [n] in them."""

    pixels: slice
    weights: Tensor
    share: Tensor

    @classmethod
    def of(cls, low: float, high: float, limit: int, side: int, feather: float) -> _Side:
        """From ``low`` to ``high`` of ``limit`` pixels, for frames with ``side`` pixels."""
        touches_low, touches_high = low <= TOUCHING, high >= limit - TOUCHING
        first = 0 if touches_low else max(0, round(low))
        last = limit if touches_high else min(limit, max(first + 1, round(high)))
        middles = torch.arange(first, last, dtype=torch.float64) + 0.5
        share = torch.ones_like(middles)
        for touches, distance in ((touches_low, middles - low), (touches_high, high - middles)):
            if not touches:
                share *= _smoothstep(distance / feather)
        weights = _resampling((middles - low) * side / (high - low), side, side / (high - low))
        return cls(pixels=slice(first, last), weights=weights.float(), share=share.float())


def _smoothstep(share: Tensor) -> Tensor:
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)


def _resampling(positions: Tensor, side: int, scale: float) -> Tensor:
    """Weights [n, side] of a frame's pixels at n positions: cubic (a = -0.5), wider where it shrinks."""
    width = max(1.0, scale)
    distance = (positions[:, None] - (torch.arange(side, dtype=torch.float64) + 0.5)).abs() / width
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
