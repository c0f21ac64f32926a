"""The face mask: a box around the face's silhouette, a fifth larger, filled (facts 10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..errors import FaceError
from ..geometry import PixelBox
from .scrfd import DetectedFace

SILHOUETTE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of a face among MediaPipe's landmarks, from the forehead clockwise."""
LANDMARKS = 478
"""How many landmarks MediaPipe finds on a face; 468 without the irises, which are not needed."""
EXPANDED = 1.2
"""The mask is so many times as wide and as high as the face."""


def silhouette_box(landmarks: Tensor) -> PixelBox:
    """The box around a face, in whole pixels.

    ``landmarks`` [478, 2] (or 468) are x and y in pixels, MediaPipe's order. Extremes are rounded half to
    even. Raises ``FaceError`` for another layout or numbers that are not finite.
    """
    shape = tuple(landmarks.shape)
    if landmarks.ndim != 2 or shape[1] != 2 or shape[0] <= max(SILHOUETTE):
        raise FaceError(
            "The landmarks do not describe a face.",
            found=f"{list(shape)} numbers",
            expected=f"[{LANDMARKS}, 2]: x and y in pixels, in MediaPipe's order",
            fix="check what finds the landmarks, or give a box instead",
        )
    outline = landmarks[list(SILHOUETTE)].double()
    if not bool(outline.isfinite().all()):
        raise FaceError(
            "The landmarks do not describe a face.",
            found="numbers that are not finite",
            expected="x and y in pixels",
            fix="check what finds the landmarks, or give a box instead",
        )
    low, high = outline.amin(dim=0).round(), outline.amax(dim=0).round()
    return PixelBox(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def expand(box: PixelBox, height: int, width: int, ratio: float = EXPANDED) -> PixelBox:
    """A box in whole pixels, ``ratio`` times as large around its middle, in a picture of a size.

    As the original does it: the middle and the halves are rounded down, and a box that leaves the picture
    is shifted back by what hangs over, so the opposite side may leave it then.
    """
    left, right = _expand(box.left, box.right, width, ratio)
    top, bottom = _expand(box.top, box.bottom, height, ratio)
    return PixelBox(left, top, right, bottom)


def _expand(low: float, high: float, side: int, ratio: float) -> tuple[float, float]:
    middle, half = (low + high) // 2, (high - low) * ratio // 2
    low, high = middle - half, middle + half
    if low < 0:
        low, high = 0, high - low
    if high > side:
        low, high = low - (high - side), side
    return round(low), round(high)


def box_mask(box: PixelBox, height: int, width: int) -> Tensor:
    """A mask [h, w] of 0 and 1: the box of a face, expanded and filled.

    The box is rounded to whole pixels first. One that is wider than the picture once expanded fills the
    picture; in the original a negative edge counted from the other end and left the mask empty. Raises
    ``FaceError`` for a box without any pixels inside the picture, or with numbers that are not finite.
    """
    whole = PixelBox(0, 0, width, height)
    if not all(math.isfinite(edge) for edge in box) or box.common(whole).area <= 0:
        raise FaceError(
            "The face's box cannot be used.",
            found=", ".join(f"{name} {edge:g}" for name, edge in box._asdict().items()),
            expected=f"a box inside {width} x {height} px",
            fix="correct the box, or leave it out and let the face be found",
        )
    left, top, right, bottom = (
        int(edge) for edge in expand(PixelBox(*(round(edge) for edge in box)), height, width)
    )
    mask = torch.zeros(height, width)
    mask[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = 1
    return mask


def face_mask(landmarks: Tensor, height: int, width: int) -> Tensor:
    """The mask [h, w] of 0 and 1 that the original makes of landmarks; errors as of its two halves."""
    return box_mask(silhouette_box(landmarks), height, width)


LookFor = Callable[[Tensor], Sequence[Tensor]]
"""Landmarks [478, 2] in pixels of every face on a picture [h, w, 3] in uint8."""
NEAR = 0.3
"""Two boxes that share so much of their union are around one face; those of neighbours share less. The box of
a detector and the one around MediaPipe's outline shared 0.81 to 0.88 on three portraits (decision 009)."""
AROUND = 2.5
"""The part that is looked at is so many times as wide and as high as the face. MediaPipe's own detector sees
nobody who is smaller than about a tenth of the picture; in such a part the landmarks differ by 0.9 px at most
from those on the whole picture (faces of 140 to 240 px), in narrower ones by 3.5 px."""


def landmarks_near(picture: Tensor, face: DetectedFace, look_for: LookFor) -> Tensor | None:
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
