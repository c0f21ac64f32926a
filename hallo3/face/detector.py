"""Detects drawn faces with a small convolutional network, and estimates where they look.

Heads as ``training/faces.py`` draws them, of ``HEAD_HEIGHTS`` on a pyramid whose levels halve the picture. On
a grid of 8 px the network marks the middles of heads and says how far their edges are (CenterNet, Zhou et al.
2019, arXiv 1904.07850, with the distances of FCOS, Tian et al. 2019, arXiv 1904.01355).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..built_in import FOLDER
from ..geometry import PixelBox

WEIGHTS = FOLDER / "face.safetensors"
METADATA_KEY = "hallo3"
STRIDE, UNIT = 8, 16
"""Pixels between the grid's points; pixels of 1 in the network's distances."""
HEAD_HEIGHTS = (16, 56)
"""Pixels of the heads that one level of the pyramid shows; the next level has larger ones."""
MAX_SEARCHED = 1_200_000
"""Pixels of the largest level."""
MIN_LEVEL_SIDE = 12
"""Pixels of the shorter side of the smallest level."""
MIN_SCORE = 0.62
SAME_FACE, INSIDE = 0.4, 0.7
"""One face: an intersection over union, or the share of the smaller box that is in the other."""
MIN_SIDE = 6
"""Pixels of a face's sides on its level."""


class TurnedFace(NamedTuple):
    """The outline of a head, in pixels and cut at the picture's edges; a score in 0..1; and where the head
    looks in degrees: positive ``yaw`` is to the picture's right, positive ``pitch`` up."""

    box: PixelBox
    score: float
    yaw: float
    pitch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Channels at steps of 2, 4 and 8 pixels, and the dilations of the convolutions in the last of them."""

    channels: tuple[int, int, int] = (16, 24, 48)
    dilations: tuple[int, ...] = (1, 2, 1, 2, 1)


class DetectorOutput(NamedTuple):
    """On a grid: ``heat`` [B, h, w] (logits), ``distances`` [B, 4, h, w] in pixels (to the left, up, to the
    right and down), and ``angles`` [B, 2, h, w], yaw and pitch in radians."""

    heat: Tensor
    distances: Tensor
    angles: Tensor


class Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.silu(self.conv(hidden))


class DetectorNetwork(nn.Module):
    """Pictures [B, 3, h, w] in 0..1 -> a point for every 8 x 8 pixels."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetectorConfig()
        first, second, last = self.config.channels
        self.stem = nn.ModuleList(
            [nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, first), (first, second), (second, last))]
        )
        self.middle = nn.ModuleList([Block(second, 1) for _ in range(2)])
        self.trunk = nn.ModuleList([Block(last, dilation) for dilation in self.config.dilations])
        self.output = nn.Conv2d(last, 7, 1)

    def forward(self, pictures: Tensor) -> DetectorOutput:
        hidden = (pictures - 0.5) * 4
        for index, conv in enumerate(self.stem):
            hidden = F.silu(conv(hidden))
            for block in self.middle if index == 1 else ():
                hidden = block(hidden)
        for block in self.trunk:
            hidden = block(hidden)
        heat, distances, angles = self.output(hidden).split((1, 4, 2), dim=1)
        return DetectorOutput(heat[:, 0], distances * UNIT, angles)


@cache
def read_detector(path: Path = WEIGHTS) -> DetectorNetwork:
    """The trained network, in single precision; one copy per process."""
    from safetensors import safe_open  # only where the weights are read

    with cast(Any, safe_open)(str(path), framework="pt") as file:
        sizes = json.loads(file.metadata()[METADATA_KEY])["config"]
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    network = DetectorNetwork(DetectorConfig(**{key: tuple(value) for key, value in sizes.items()}))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def find_faces(picture: Tensor, network: DetectorNetwork | None = None) -> list[TurnedFace]:
    """The drawn faces in a picture [3, h, w] in 0..1 from left to right, with heads from about 20 px (in a
    picture above ``MAX_SEARCHED`` pixels, when it is reduced to that) to the picture's height."""
    network = network or read_detector()
    height, width = picture.shape[1:]
    scale = min(1.0, (MAX_SEARCHED / (height * width)) ** 0.5)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    level = picture.float() if scale == 1 else average(picture, size)
    across, down = width / size[1], height / size[0]
    found: list[TurnedFace] = []
    with torch.inference_mode():
        while min(level.shape[1:]) >= MIN_LEVEL_SIDE:
            for face in find_level_faces(network(level[None]), *level.shape[1:]):
                edges = zip(face.box, (across, down) * 2, strict=True)
                found.append(face._replace(box=PixelBox(*(edge * factor for edge, factor in edges))))
            level, across, down = F.avg_pool2d(level[None], 2)[0], 2 * across, 2 * down
    bounds = PixelBox(0, 0, width, height)
    faces = [
        face._replace(box=PixelBox(*map(round, face.box)).intersect(bounds)) for face in drop_repeated(found)
    ]
    return sorted(faces, key=lambda face: face.box.left + face.box.right)


def find_level_faces(output: DetectorOutput, height: int, width: int) -> list[TurnedFace]:
    """The faces of one level of height x width, in its pixels: where the heat is highest around."""
    heat = output.heat[0].sigmoid()
    peaks = (heat >= MIN_SCORE) & (heat == F.max_pool2d(heat[None], 3, stride=1, padding=1)[0])
    points = cast("list[list[int]]", peaks.nonzero().tolist())
    numbers = torch.cat((output.distances, output.angles.rad2deg(), heat[None, None]), dim=1)[0]
    faces: list[TurnedFace] = []
    for row, column in points:
        x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
        left, up, right, down, yaw, pitch, score = map(float, numbers[:, row, column])
        box = PixelBox(max(0, x - left), max(0, y - up), min(width, x + right), min(height, y + down))
        if min(box.right - box.left, box.bottom - box.top) >= MIN_SIDE:
            faces.append(TurnedFace(box, score, yaw, pitch))
    return faces


def drop_repeated(faces: Sequence[TurnedFace]) -> list[TurnedFace]:
    """Of faces that are the same one, that with the highest score."""
    kept: list[TurnedFace] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(_are_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def _are_same(one: PixelBox, other: PixelBox) -> bool:
    shared = one.intersect(other).area
    return one.overlap(other) > SAME_FACE or shared > INSIDE * min(one.area, other.area)


def average(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Average areas of a picture to [3, *size], a row at a time: a large picture is not copied as a whole."""
    height, (rows, columns) = picture.shape[1], size
    edges = ((row * height // rows, -(-(row + 1) * height // rows)) for row in range(rows))
    means = [F.adaptive_avg_pool2d(picture[:, top:bottom].float(), (1, columns)) for top, bottom in edges]
    return torch.cat(means, dim=1)
