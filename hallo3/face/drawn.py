"""Drawn faces: detected by their skin, which is one flat colour, and embedded as a thumbnail.

For the built-in model, which has learned drawn faces only; it warns of photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..media.framing import MASK_RATIO
from ..messages import logger
from .analyzer import Face

SEARCH_SIDE = 64
"""Pixels per side of the picture that is searched."""
MIDDLE = (slice(24, 46), slice(22, 42))
"""Where the skin is searched first: the middle, below the hair."""
SKIN_TOLERANCE = 0.04
"""Largest distance of skin colours from their mean, relative to its brightness."""
MIN_SKIN = 0.04
"""Share of the picture that a face's skin fills."""
THUMBNAIL_SIDE = 13

JUDGED_SIDE = 128
"""Pixels of the shorter side at which drawings and photographs are distinguished; smaller ones cannot be."""
JUDGED_SHARE = 0.6
"""Share of that side that counts, in the middle: walls are flat in photographs too."""
PALETTE_SIZE, PALETTE_ROUNDS = 16, 5
MAX_PALETTE_DISTANCE = 0.09
"""Median distance of a drawing's pixels from its palette, relative to the spread of its colours."""
FLAT_STEP, MIN_FLAT = 2.5 / 255, 0.6
"""The largest difference of flat neighbours, and the share of them that makes a drawing."""


class Box(NamedTuple):
    """A rectangle in shares of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def expand(self, ratio: float) -> Box:
        """Around the same middle, cut at the picture's edges."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        half_width, half_height = (self.right - self.left) * ratio / 2, (self.bottom - self.top) * ratio / 2
        edges = (x - half_width, y - half_height, x + half_width, y + half_height)
        return Box(*(min(1.0, max(0.0, edge)) for edge in edges))

    def to_slices(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns of pixels, at least one of each."""
        top, left = int(self.top * height), int(self.left * width)
        bottom, right = max(top + 1, round(self.bottom * height)), max(left + 1, round(self.right * width))
        return slice(top, bottom), slice(left, right)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class DrawnFaceAnalyzer:
    """A thumbnail of the face, with its place, is the embedding."""

    embedding_dim: int
    space: str = "drawn-face"

    def analyze(self, picture: Tensor) -> Face:
        """The face in a picture [3, h, w] in 0..1; the whole picture, with a warning, if none is found."""
        box = face_box(picture)
        if not looks_drawn(picture):
            logger.warning(
                "The portrait looks like a photograph, but this model knows drawn faces only: use the "
                "released weights for photographs, or one of the sample portraits."
            )
        elif box is None:
            logger.warning(
                "No drawn face was found in the portrait, so the whole picture counts as the face: this "
                "model knows drawn portraits only, try one like the sample portraits."
            )
        box = box or WHOLE
        height, width = picture.shape[1:]
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[box.expand(MASK_RATIO).to_slices(height, width)] = 1
        rows, columns = box.to_slices(height, width)
        thumbnail = _average(picture[:, rows, columns], (THUMBNAIL_SIDE, THUMBNAIL_SIDE))[None].flatten(1)
        embedding = torch.cat((thumbnail, torch.tensor([box]).to(thumbnail)), dim=1) * 2 - 1
        return Face(mask=mask, embedding=F.pad(embedding, (0, self.embedding_dim - embedding.shape[1])))


def face_box(picture: Tensor) -> Box | None:
    """The extent of a drawn face's skin in a picture [3, h, w] in 0..1, None if there is none. What reaches
    from edge to edge is a wall."""
    small = _average(picture, (SEARCH_SIDE, SEARCH_SIDE))
    colours = small[:, *MIDDLE].flatten(1).T
    brightness = _norm(colours, 1)
    near = torch.cdist(colours, colours) < SKIN_TOLERANCE * brightness[:, None].clamp_min(0.1)
    votes = near.sum(dim=1)
    skin = colours[near[votes.argmax()]].mean(dim=0)
    distance = _norm(small - skin[:, None, None], 0)
    alike = distance < SKIN_TOLERANCE * _norm(skin, 0).clamp_min(0.1)
    region = _flood(alike, votes.argmax())
    if region.float().mean() < MIN_SKIN:  # started on an edge between skin and something like it
        region = _flood(alike, distance[MIDDLE].argmin())
    if region.float().mean() < MIN_SKIN:
        return None
    rows, columns = region.any(dim=1).nonzero(), region.any(dim=0).nonzero()
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    box = Box(*(edge / SEARCH_SIDE for edge in edges))
    is_wall = (box.left, box.right) == (0, 1) or (box.top, box.bottom) == (0, 1)
    return None if is_wall else box


def _average(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Average areas of a picture to [3, *size], a row at a time: a large picture is not copied as a whole."""
    height, (rows, columns) = picture.shape[1], size
    edges = ((row * height // rows, -(-(row + 1) * height // rows)) for row in range(rows))
    means = [F.adaptive_avg_pool2d(picture[:, top:bottom].float(), (1, columns)) for top, bottom in edges]
    return torch.cat(means, dim=1)


def _norm(colours: Tensor, dim: int) -> Tensor:
    return cast(Tensor, colours.norm(dim=dim))  # untyped in torch


def _flood(alike: Tensor, seed: Tensor) -> Tensor:
    """The connected part of a region [h, w] around ``seed``, an index into ``MIDDLE``."""
    rows, columns = MIDDLE
    row, column = divmod(int(seed), columns.stop - columns.start)
    region = torch.zeros_like(alike, dtype=torch.float32)
    region[rows.start + row, columns.start + column] = 1
    for _ in range(2 * SEARCH_SIDE):
        larger = F.max_pool2d(region[None, None], 3, stride=1, padding=1)[0, 0] * alike
        if torch.equal(larger, region):
            break
        region = larger
    return region > 0


def looks_drawn(picture: Tensor) -> bool:
    """Whether a picture [3, h, w] in 0..1 is a drawing, not a photograph, judged by its middle.

    A drawing has few colours, or neighbours that are alike nearly everywhere, as in smooth computer graphics.
    Distances to the palette were at most 0.02 for procedural portraits as PNG; as JPEG of quality 75, 0.05
    from 256 px on and 0.08 at 128 px (strongly tinted, 0.092); for shaded heads 0.07; for photographed people
    0.097 to 0.18, whether resized, compressed or smoothed, of whom at most 0.49 was flat. Photographs in
    front of plain bright walls can pass. Below 128 px everything counts as drawn.
    """
    height, width = picture.shape[1:]
    if min(height, width) < JUDGED_SIDE:
        return True
    scale, side = JUDGED_SIDE / min(height, width), round(JUDGED_SHARE * JUDGED_SIDE)
    size = round(height * scale), round(width * scale)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    middle = _average(picture, size)[:, top : top + side, left : left + side]
    middle = middle.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3).median(dim=3).values  # drops JPEG artefacts
    right = (middle[:, :-1, 1:] - middle[:, :-1, :-1]).abs().amax(dim=0)
    below = (middle[:, 1:, :-1] - middle[:, :-1, :-1]).abs().amax(dim=0)
    flat = (torch.maximum(right, below) < FLAT_STEP).float().mean()
    if float(flat) > MIN_FLAT:
        return True
    pixels = middle.flatten(1).T
    spread = (pixels - pixels.mean(dim=0)).square().sum(dim=1).mean().sqrt().clamp_min(0.02)
    ranks = torch.linspace(0, len(pixels) - 1, PALETTE_SIZE).long()
    palette = pixels[pixels.sum(dim=1).argsort()[ranks]]
    for _ in range(PALETTE_ROUNDS):
        nearest = torch.cdist(pixels, palette).argmin(dim=1)
        count = nearest.bincount(minlength=PALETTE_SIZE)[:, None]
        total = torch.zeros_like(palette).index_add_(0, nearest, pixels)
        palette = torch.where(count > 0, total / count.clamp_min(1), palette)
    distance = torch.cdist(pixels, palette).amin(dim=1).median() / spread
    return float(distance) < MAX_PALETTE_DISTANCE
