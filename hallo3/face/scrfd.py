"""SCRFD: where faces are on a picture, with their eyes, noses and mouths (scrfd_10g_bnkps of antelopev2).

From the published description of the network (Guo et al. 2021, arXiv 2105.04714) and its files: on grids of
8, 16 and 32 pixels, two anchors a point, each gives a score, how far the box reaches to the four sides and
where five landmarks are, both in steps of the grid. Original: insightface at 640 x 640, 0.5 and 0.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError, FaceError
from ..geometry import PixelBox
from ..onnx_model import Expected, Network, Origin, open_network

ANTELOPE = Origin(
    what="A face model",
    belongs_to="insightface's antelopev2",
    terms="Its weights are for non-commercial research only (insightface's antelopev2).",
    where=(
        "take it from face_analysis/models of fudan-generative-ai/hallo3 on huggingface.co, or from "
        "antelopev2.zip among insightface's releases, and put it there"
    ),
    need="Faces on photographs need",
    instead="use a saved identity or the built-in model",
    accept="to use this one unverified, pass --faces-unverified, or in ComfyUI switch on unverified",
)
"""SCRFD's and ArcFace's files, as Hallo3 was trained with them."""


FILE = "scrfd_10g_bnkps.onnx"
SIDE = 640
"""Pixels a side of what the network looks at."""
STRIDES, ANCHORS = (8, 16, 32), 2
SCORE, BOX, POINTS = 1, 4, 10
"""Channels of the three outputs of a grid: a score, four distances, five points."""
EXPECTED = Expected(
    sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    input=(None, 3, SIDE, SIDE),
    channels=(SCORE,) * 3 + (BOX,) * 3 + (POINTS,) * 3,
)
SURE, LEAST = 0.5, 0.3
"""A score from which on a face is one, as in the original, and the lowest that is worth a doubt."""
OVERLAP = 0.4
"""Boxes that share more of their union are one face: the one with the higher score."""
MOST = 4000
"""Boxes that are compared, the best ones; of one face the real network gives a dozen."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectedFace:
    """A face on a picture: its ``box`` in pixels, cut at the picture's edges; its ``score`` in 0..1; the
    ``landmarks`` [5, 2] in pixels (left eye, right eye, nose, left and right corner of the mouth, as seen);
    and how much of the whole box lies on the picture, ``visible`` in 0..1."""

    box: PixelBox
    score: float
    landmarks: Tensor
    visible: float = 1.0


@dataclass(frozen=True)
class Detector:
    """Finds faces with the network in a file, which is opened when it is first used."""

    path: Path
    unverified: bool = False

    @cached_property
    def network(self) -> Network:
        """Errors as of :func:`open_network`."""
        return open_network(self.path, EXPECTED, ANTELOPE, unverified=self.unverified)

    def __call__(self, picture: Tensor) -> list[DetectedFace]:
        """The faces on a picture [3, h, w] in 0..1 with a score from ``LEAST`` on, best first.

        Raises ``FaceError`` when the network answers with numbers that are not finite, ``CheckpointError``
        when it is another network.
        """
        values, scale = letterbox(picture)
        scores, boxes, points = self._decode(self.network(values))
        likely = scores >= LEAST
        scores, boxes, points = scores[likely], boxes[likely] / scale, points[likely] / scale
        best = scores.argsort(descending=True, stable=True)[:MOST]
        height, width = picture.shape[1:]
        kept = (int(best[i]) for i in keep_best(boxes[best]))
        faces = (_found(boxes[i], scores[i], points[i], height, width) for i in kept)
        return [face for face in faces if face.box.area > 0]

    def _decode(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [n], boxes [n, 4] and landmarks [n, 5, 2] in pixels of what the network saw."""
        by_shape = {tuple(each.shape[-2:]): each.reshape(each.shape[-2:]) for each in _single(outputs)}
        scores: list[Tensor] = []
        boxes: list[Tensor] = []
        points: list[Tensor] = []
        for stride in STRIDES:
            centres = anchors(stride)
            wanted = [(len(centres), channels) for channels in (SCORE, BOX, POINTS)]
            if not all(shape in by_shape for shape in wanted):
                raise _other(self.path, outputs)
            score, reach, offsets = (by_shape[shape] for shape in wanted)
            reach, offsets = reach * stride, offsets.reshape(-1, 5, 2) * stride
            scores.append(score[:, 0])
            boxes.append(torch.cat((centres - reach[:, :2], centres + reach[:, 2:]), dim=1))
            points.append(centres[:, None] + offsets)
        found = torch.cat(scores), torch.cat(boxes), torch.cat(points)
        likely = found[0] >= LEAST
        if not all(bool(each[likely].isfinite().all()) for each in found) or bool(found[0].isnan().any()):
            raise FaceError(
                "The face detector's answer cannot be used.",
                found="boxes, landmarks or scores that are not finite",
                expected="finite numbers",
                fix=f"try another picture, or download {self.path.name} again",
            )
        return found


def letterbox(picture: Tensor) -> tuple[Tensor, float]:
    """What the network sees of a picture [3, h, w] in 0..1, [1, 3, 640, 640], and its scale to it.

    The picture keeps its aspect and lies in the upper left corner, the rest is black; whole levels of
    0..255 become (x - 127.5) / 128. Plain bilinear, without smoothing. As in the original the scale is the
    height's, though the shorter side lost a fraction of a pixel: at 3:2 it is right to 0.2 %.
    """
    height, width = picture.shape[1:]
    if height >= width:
        rows, columns = SIDE, max(1, int(SIDE / (height / width)))
    else:
        rows, columns = max(1, int(SIDE * (height / width))), SIDE
    small = F.interpolate(picture[None].float(), size=(rows, columns), mode="bilinear", align_corners=False)
    levels = F.pad((small * 255).round(), (0, SIDE - columns, 0, SIDE - rows))
    return (levels - 127.5) / 128, rows / height


def anchors(stride: int) -> Tensor:
    """The points [n, 2] of a grid in x and y, row by row, each as often as it has anchors."""
    line = torch.arange(0, SIDE, stride, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2).repeat_interleave(ANCHORS, dim=0)


def keep_best(boxes: Tensor) -> list[int]:
    """Which of boxes [n, 4], best first, are faces of their own.

    Sides count one pixel more than their difference, as in the original.
    """
    left, top, right, bottom = boxes.unbind(dim=1)
    areas = (right - left + 1) * (bottom - top + 1)
    free = torch.ones(len(boxes), dtype=torch.bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not free[i]:
            continue
        kept.append(i)
        wide = (torch.minimum(right[i], right) - torch.maximum(left[i], left) + 1).clamp_min(0)
        tall = (torch.minimum(bottom[i], bottom) - torch.maximum(top[i], top) + 1).clamp_min(0)
        common = wide * tall
        free &= common / (areas[i] + areas - common) <= OVERLAP
    return kept


def _found(box: Tensor, score: Tensor, points: Tensor, height: int, width: int) -> DetectedFace:
    left, top, right, bottom = (float(edge) for edge in box)
    whole = PixelBox(left, top, right, bottom)
    seen = whole.common(PixelBox(0, 0, width, height))
    return DetectedFace(seen, float(score), points, seen.area / whole.area if whole.area else 0.0)


def _single(outputs: list[Tensor]) -> list[Tensor]:
    """Outputs [n, c], or [1, n, c] with an axis for several pictures."""
    return [each for each in outputs if each.ndim == 2 or (each.ndim == 3 and len(each) == 1)]


def _other(path: Path, outputs: list[Tensor]) -> CheckpointError:
    return CheckpointError(
        "The face detector's file holds another network.",
        found=f"{path.name}: outputs {', '.join(str(list(each.shape)) for each in outputs)}"[:300],
        expected=f"scores, boxes and five landmarks on grids of {STRIDES} pixels at {SIDE} x {SIDE}",
        fix=f"use the file {FILE} of antelopev2",
    )
