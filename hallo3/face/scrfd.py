"""SCRFD: detects faces with their eyes, noses and mouths (scrfd_10g_bnkps of antelopev2).

From the published description of the network (Guo et al. 2021, arXiv 2105.04714) and its files: on grids of
8, 16 and 32 pixels, two anchors per point, each gives a score, the distances to the four sides of the box and
five landmarks, both in steps of the grid. Original: insightface at 640 x 640, 0.5 and 0.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

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
"""SCRFD's and ArcFace's files, which Hallo3 was trained with."""

DETECTOR_FILENAME = "scrfd_10g_bnkps.onnx"
INPUT_SIDE = 640
STRIDES, ANCHORS = (8, 16, 32), 2
CHANNELS = (1, 4, 10)
"""Of the three outputs of a grid: a score, four distances, five points."""
CONFIDENT_SCORE, MIN_SCORE = 0.5, 0.3
"""The original's threshold, and that of doubtful faces, which are used if there is no other."""
MAX_OVERLAP = 0.4
"""Boxes with more intersection over union are one face: the one with the higher score."""
MAX_BOXES = 4000
"""To compare, the best ones; the real network gives a dozen per face."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectedFace:
    """A face: its ``box`` in pixels, cut at the picture's edges; its ``score`` in 0..1; the ``landmarks`` [5,
    2] in pixels (left eye, right eye, nose, left and right corner of the mouth, as seen); and the share of
    the whole box that is ``visible``, in 0..1."""

    box: PixelBox
    score: float
    landmarks: Tensor
    visible: float = 1.0


@dataclass(frozen=True)
class FaceNetwork:
    """A network in a file of antelopev2, which is opened on first use."""

    expected: ClassVar[Expected]
    path: Path
    unverified: bool = False

    @cached_property
    def network(self) -> Network:
        """Errors as of :func:`open_network`."""
        return open_network(self.path, self.expected, ANTELOPE, unverified=self.unverified)


class Detector(FaceNetwork):
    expected = Expected(
        sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        input=(None, 3, INPUT_SIDE, INPUT_SIDE),
        channels=tuple(channels for channels in CHANNELS for _ in STRIDES),
    )

    def __call__(self, picture: Tensor) -> list[DetectedFace]:
        """The faces in a picture [3, h, w] in 0..1 with a score of at least ``MIN_SCORE``, best first. Raises
        ``FaceError`` if the network's output is not finite, ``CheckpointError`` for another network."""
        pixels, scale = letterbox(picture)
        scores, boxes, points = self._decode(self.network(pixels))
        likely = scores >= MIN_SCORE
        scores, boxes, points = scores[likely], boxes[likely] / scale, points[likely] / scale
        order = scores.argsort(descending=True, stable=True)[:MAX_BOXES]
        bounds, faces = PixelBox(0, 0, picture.shape[2], picture.shape[1]), list[DetectedFace]()
        for i in (int(order[n]) for n in suppress_overlaps(boxes[order])):
            whole = PixelBox(*boxes[i].tolist())
            box = whole.intersect(bounds)
            if box.area > 0:
                faces.append(DetectedFace(box, float(scores[i]), points[i], box.area / whole.area))
        return faces

    def _decode(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [n], boxes [n, 4] and landmarks [n, 5, 2] in pixels of the network's input."""
        by_shape = {
            tuple(output.shape[-2:]): output.reshape(output.shape[-2:])
            for output in outputs
            if output.ndim == 2 or (output.ndim == 3 and len(output) == 1)  # with an axis for pictures
        }
        grids: list[tuple[Tensor, Tensor, Tensor]] = []
        for stride in STRIDES:
            centres = make_anchors(stride)
            shapes = [(len(centres), channels) for channels in CHANNELS]
            if not all(shape in by_shape for shape in shapes):
                raise CheckpointError(
                    "The face detector's file holds another network.",
                    found=f"{self.path.name}: outputs {[list(output.shape) for output in outputs]}"[:300],
                    expected=f"scores, boxes and five landmarks on grids of {STRIDES} pixels",
                    fix=f"use the file {DETECTOR_FILENAME} of antelopev2",
                )
            score, distances, offsets = (by_shape[shape] for shape in shapes)
            distances, offsets = distances * stride, offsets.reshape(-1, 5, 2) * stride
            boxes = torch.cat((centres - distances[:, :2], centres + distances[:, 2:]), dim=1)
            grids.append((score[:, 0], boxes, centres[:, None] + offsets))
        scores, boxes, points = (torch.cat(each) for each in zip(*grids, strict=True))
        likely = scores >= MIN_SCORE
        if bool(scores.isnan().any()) or not bool(
            boxes[likely].isfinite().all() & points[likely].isfinite().all() & scores[likely].isfinite().all()
        ):
            raise FaceError(
                "The face detector's output cannot be used.",
                found="boxes, landmarks or scores that are not finite",
                expected="finite numbers",
                fix=f"try another picture, or download {self.path.name} again",
            )
        return scores, boxes, points


def letterbox(picture: Tensor) -> tuple[Tensor, float]:
    """The network's input [1, 3, 640, 640] for a picture [3, h, w] in 0..1, and its scale. The picture keeps
    its aspect and is in the upper left corner, the rest is black; whole levels of 0..255 become (x - 127.5) /
    128. Bilinear without antialiasing. Like in the original, the scale is the height's, though rounding
    shortens the other side: at 3:2 it is right to 0.2 %."""
    height, width = picture.shape[1:]
    if height >= width:
        rows, columns = INPUT_SIDE, max(1, int(INPUT_SIDE / (height / width)))
    else:
        rows, columns = max(1, int(INPUT_SIDE * (height / width))), INPUT_SIDE
    small = F.interpolate(picture[None].float(), size=(rows, columns), mode="bilinear", align_corners=False)
    levels = F.pad((small * 255).round(), (0, INPUT_SIDE - columns, 0, INPUT_SIDE - rows))
    return (levels - 127.5) / 128, rows / height


def make_anchors(stride: int) -> Tensor:
    """x and y of the points of a grid, row by row and once per anchor: [n, 2]."""
    line = torch.arange(0, INPUT_SIDE, stride, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2).repeat_interleave(ANCHORS, dim=0)


def suppress_overlaps(boxes: Tensor) -> list[int]:
    """Non-maximum suppression of boxes [n, 4], best first: the indices of those to keep. Sides are one pixel
    longer than their difference, as in the original, unlike torchvision's ``nms``."""
    left, top, right, bottom = boxes.unbind(dim=1)
    areas = (right - left + 1) * (bottom - top + 1)
    remaining = torch.ones(len(boxes), dtype=torch.bool)
    indices = list[int]()
    for i in range(len(boxes)):
        if not remaining[i]:
            continue
        indices.append(i)
        width = (torch.minimum(right[i], right) - torch.maximum(left[i], left) + 1).clamp_min(0)
        height = (torch.minimum(bottom[i], bottom) - torch.maximum(top[i], top) + 1).clamp_min(0)
        shared = width * height
        remaining &= shared / (areas[i] + areas - shared) <= MAX_OVERLAP
    return indices
