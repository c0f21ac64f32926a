"""Which of the faces that MediaPipe sees is the one that was found: looked for on the whole picture, as the
original does, and where it is not seen there, on the part around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..boxes import PixelBox
from .detector import Found
from .landmarks import SILHOUETTE

LookFor = Callable[[Tensor], Sequence[Tensor]]
"""Landmarks [478, 2] in pixels of every face on a picture [h, w, 3] in uint8."""
NEAR = 0.3
"""Two boxes that share so much of their union are around one face; those of neighbours share less. The box of
a detector and the one around MediaPipe's outline shared 0.81 to 0.88 on three portraits (decision 009)."""
AROUND = 2.5
"""The part that is looked at is so many times as wide and as high as the face. MediaPipe's own detector sees
nobody who is smaller than about a tenth of the picture; in such a part the landmarks differ by 0.9 px at most
from those on the whole picture (faces of 140 to 240 px), in narrower ones by 3.5 px."""


def landmarks_near(picture: Tensor, face: Found, look_for: LookFor) -> Tensor | None:
    """The landmarks [478, 2] of a face that was found on a picture [3, h, w] in 0..1, in pixels of the whole
    picture; None if nobody is seen there."""
    levels = (picture.detach().float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    levels = levels.permute(1, 2, 0).contiguous()
    seen = nearest(look_for(levels), face.box)
    if seen is not None:
        return seen
    left, top, right, bottom = part_around(face.box, *levels.shape[:2])
    if left >= right or top >= bottom:
        return None
    corner = torch.tensor([left, top])
    part = levels[top:bottom, left:right].contiguous()
    return nearest([points + corner for points in look_for(part)], face.box)


def nearest(faces: Iterable[Tensor], box: PixelBox) -> Tensor | None:
    """Of landmarks [478, 2] of several faces those whose outline's box is most like ``box``; None if none is
    near it. Numbers that are not finite are nobody's."""
    known = [points for points in faces if bool(points.isfinite().all())]
    best = max(known, key=lambda points: likeness(_extent(points), box), default=None)
    return best if best is not None and likeness(_extent(best), box) >= NEAR else None


def likeness(one: PixelBox, other: PixelBox) -> float:
    """The share of the union of two boxes that both have, in 0..1."""
    common = one.common(other).area
    union = one.area + other.area - common
    return common / union if union > 0 else 0.0


def part_around(box: PixelBox, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part around a face, in whole pixels of a picture of a size: a square
    where there is room."""
    half = max(box.right - box.left, box.bottom - box.top) * AROUND / 2
    middle_x, middle_y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return (
        max(0, int(middle_x - half)),
        max(0, int(middle_y - half)),
        min(width, int(middle_x + half)),
        min(height, int(middle_y + half)),
    )


def _extent(points: Tensor) -> PixelBox:
    outline = points[list(SILHOUETTE)]
    low, high = outline.amin(dim=0), outline.amax(dim=0)
    return PixelBox(float(low[0]), float(low[1]), float(high[0]), float(high[1]))
