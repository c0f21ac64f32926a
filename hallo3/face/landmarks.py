"""The face mask: a box around the face's silhouette, expanded by a fifth and filled (facts 10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..errors import FaceError
from ..geometry import PixelBox
from ..media.framing import MASK_RATIO
from .scrfd import DetectedFace

SILHOUETTE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of a face among MediaPipe's 478 landmarks, clockwise from the forehead."""
DetectLandmarks = Callable[[Tensor], Sequence[Tensor]]
"""Landmarks [478, 2] in pixels of every face in a picture [h, w, 3] uint8."""
MIN_OVERLAP = 0.3
"""Intersection over union from which two boxes are around one face; those of neighbours have less. The box of
a detector and the one around MediaPipe's outline had 0.81 to 0.88 on three portraits (decision 009)."""
SEARCH_RATIO = 2.5
"""Size of the region to search, relative to the face. MediaPipe's own detector does not find faces smaller
than about a tenth of the picture; in such a region landmarks differ by at most 0.9 px from those in the whole
picture (faces of 140 to 240 px), in narrower ones by 3.5 px."""


def silhouette_box(landmarks: Tensor) -> PixelBox:
    """The box around a face, in whole pixels. ``landmarks`` [478, 2] (or 468, without the irises) are x and y
    in pixels, in MediaPipe's order. Rounds half to even. Raises ``FaceError`` for anything else."""
    fits = landmarks.ndim == 2 and landmarks.shape[1] == 2 and len(landmarks) > max(SILHOUETTE)
    if not fits or not bool(landmarks[list(SILHOUETTE)].isfinite().all()):
        raise FaceError(
            "The landmarks do not describe a face.",
            found="numbers that are not finite" if fits else f"{list(landmarks.shape)} numbers",
            expected="[478, 2]: x and y in pixels, in MediaPipe's order",
            fix="check the landmark detector, or pass a box instead",
        )
    return PixelBox(*map(round, _get_outline_box(landmarks.double())))


def _get_outline_box(landmarks: Tensor) -> PixelBox:
    outline = landmarks[list(SILHOUETTE)]
    return PixelBox(*outline.amin(dim=0).tolist(), *outline.amax(dim=0).tolist())


def expand(box: PixelBox, height: int, width: int, ratio: float = MASK_RATIO) -> PixelBox:
    """Expand a box in whole pixels around its middle, in a picture of height x width. Like the original:
    middle and halves are rounded down; a box that leaves the picture is shifted back."""

    def expand_side(low: float, high: float, side: int) -> tuple[float, float]:
        middle, half = (low + high) // 2, (high - low) * ratio // 2
        low, high = middle - half, middle + half
        if low < 0:
            low, high = 0, high - low
        if high > side:
            low, high = low - (high - side), side
        return round(low), round(high)

    left, right = expand_side(box.left, box.right, width)
    top, bottom = expand_side(box.top, box.bottom, height)
    return PixelBox(left, top, right, bottom)


def box_mask(box: PixelBox, height: int, width: int) -> Tensor:
    """A mask [h, w] of 0 and 1: the box of a face, rounded to whole pixels, expanded and filled. If it is
    wider than the picture once expanded, it fills the picture; in the original the mask is then empty. Raises
    ``FaceError`` for a box outside of the picture or not finite."""
    picture = PixelBox(0, 0, width, height)
    if not all(math.isfinite(edge) for edge in box) or box.intersect(picture).area <= 0:
        raise FaceError(
            "The face's box cannot be used.",
            found=", ".join(f"{name} {edge:g}" for name, edge in box._asdict().items()),
            expected=f"a box inside {width} x {height} px",
            fix="correct the box, or remove it to detect the face",
        )
    left, top, right, bottom = map(int, expand(PixelBox(*map(round, box)), height, width))
    mask = torch.zeros(height, width)
    mask[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = 1
    return mask


def match_landmarks(picture: Tensor, face: DetectedFace, detect: DetectLandmarks) -> Tensor | None:
    """The landmarks [478, 2] of a detected face in pixels of a picture [3, h, w] in 0..1; None if ``detect``
    finds no face there, neither in the whole picture nor in the region around the face."""
    levels = (picture.detach().float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    levels = levels.permute(1, 2, 0).contiguous()
    landmarks = _pick_nearest(detect(levels), face.box)
    if landmarks is not None:
        return landmarks
    half = max(face.box.right - face.box.left, face.box.bottom - face.box.top) * SEARCH_RATIO / 2
    x, y = (face.box.left + face.box.right) / 2, (face.box.top + face.box.bottom) / 2
    left, top = max(0, int(x - half)), max(0, int(y - half))
    region = levels[top : max(0, int(y + half)), left : max(0, int(x + half))].contiguous()
    if not region.numel():
        return None
    return _pick_nearest([points + torch.tensor([left, top]) for points in detect(region)], face.box)


def _pick_nearest(faces: Iterable[Tensor], box: PixelBox) -> Tensor | None:
    """The finite landmarks whose outline overlaps most with ``box``, if enough."""
    finite = [points for points in faces if bool(points.isfinite().all())]
    best = max(finite, key=lambda points: _get_outline_box(points).overlap(box), default=None)
    return best if best is not None and _get_outline_box(best).overlap(box) >= MIN_OVERLAP else None
