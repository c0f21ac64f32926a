"""Drawn faces: found by their skin, which is one flat colour, and known again by what they look like small.

For the built-in model, which has learned drawn faces only; photographs are told apart, to warn of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..messages import logger
from .analyzer import Face

SIDE = 64
"""Pixels a side of the picture that is searched."""
MIDDLE = (slice(24, 46), slice(22, 42))
"""Where a portrait's skin is looked for: the middle, below the hair."""
SAME_SKIN = 0.04
"""How far, in shares of its brightness, a colour may be from the skin's and still be skin."""
LEAST_SKIN = 0.04
"""Share of the picture that a face's skin fills at least."""
EXPANDED = 1.2
"""The mask is the face's box, so many times as large (facts 10)."""
THUMBNAIL = 13

SEEN = 128
"""Pixels of the shorter side at which drawings and photographs are told apart; below it they cannot be."""
HEART = 0.6
"""Share of that side that is looked at, in the middle: walls are flat on photographs too."""
COLOURS, ROUNDS = 16, 5
"""Size of the palette that is fitted, and how often it is improved."""
DRAWN_COLOURS = 0.09
"""How far, in shares of the colours' spread, half of a drawing's pixels are at most from its palette."""
FLAT, DRAWN_FLAT = 2.5 / 255, 0.6
"""The largest difference between flat neighbours, and the share of them that is enough for a drawing."""


class Box(NamedTuple):
    """A rectangle in shares of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def expanded(self, by: float) -> Box:
        """So many times as large around the same middle, cut at the picture's edges."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        half_width, half_height = (self.right - self.left) * by / 2, (self.bottom - self.top) * by / 2
        edges = (x - half_width, y - half_height, x + half_width, y + half_height)
        return Box(*(min(1.0, max(0.0, edge)) for edge in edges))

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns, at least one of each."""
        top, left = int(self.top * height), int(self.left * width)
        bottom, right = max(top + 1, round(self.bottom * height)), max(left + 1, round(self.right * width))
        return slice(top, bottom), slice(left, right)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class DrawnFaceAnalyzer:
    """The box of a drawn face, and a thumbnail of it with its place as its embedding."""

    embedding_dim: int
    space: str = "drawn-face"

    def analyze(self, picture: Tensor) -> Face:
        """The face on a picture [3, h, w] in 0..1.

        A picture without a drawn face counts as a face as a whole, with a warning; of what looks like a
        photograph the warning says that.
        """
        box = face_box(picture)
        if not looks_drawn(picture):
            logger.warning(
                "The portrait looks like a photograph, and this model knows drawn faces only: use the real "
                "weights for photographs, or one of the bundled portraits."
            )
        elif box is None:
            logger.warning(
                "No drawn face was found on the portrait, so the whole picture counts as the face: this "
                "model knows drawn portraits only, try one like the bundled portraits."
            )
        box = box or WHOLE
        height, width = picture.shape[1:]
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[box.expanded(EXPANDED).pixels(height, width)] = 1
        return Face(mask=mask, embedding=self._embedding(picture, box))

    def _embedding(self, picture: Tensor, box: Box) -> Tensor:
        rows, columns = box.pixels(*picture.shape[1:])
        thumbnail = _shrunk(picture[:, rows, columns], (THUMBNAIL, THUMBNAIL))[None].flatten(1)
        place = torch.tensor([box]).to(thumbnail)
        known = torch.cat((thumbnail, place), dim=1) * 2 - 1
        return F.pad(known, (0, self.embedding_dim - known.shape[1]))


def face_box(picture: Tensor) -> Box | None:
    """The extent of a drawn face's skin on a picture [3, h, w] in 0..1, None if there is none.

    What reaches from edge to edge is a wall, no skin.
    """
    small = _shrunk(picture, (SIDE, SIDE))
    colours = small[:, *MIDDLE].flatten(1).T
    near = torch.cdist(colours, colours) < SAME_SKIN * _brightness(colours, 1)[:, None].clamp_min(0.1)
    votes = near.sum(dim=1)
    skin = colours[near[votes.argmax()]].mean(dim=0)
    distance = _brightness(small - skin[:, None, None], 0)
    alike = distance < SAME_SKIN * _brightness(skin, 0).clamp_min(0.1)
    region = _connected(alike, votes.argmax())
    if region.float().mean() < LEAST_SKIN:  # begun on an edge between skin and something like it
        region = _connected(alike, distance[MIDDLE].argmin())
    if region.float().mean() < LEAST_SKIN:
        return None
    rows, columns = region.any(dim=1).nonzero(), region.any(dim=0).nonzero()
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    box = Box(*(edge / SIDE for edge in edges))
    wall = (box.left, box.right) == (0, 1) or (box.top, box.bottom) == (0, 1)
    return None if wall else box


def _shrunk(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The means [3, *size] of a picture's areas, a row at a time: a large one is not copied as a whole."""
    height, (rows, columns) = picture.shape[1], size
    edges = ((row * height // rows, -(-(row + 1) * height // rows)) for row in range(rows))
    means = [F.adaptive_avg_pool2d(picture[:, top:bottom].float(), (1, columns)) for top, bottom in edges]
    return torch.cat(means, dim=1)


def _brightness(colours: Tensor, dim: int) -> Tensor:
    """The length of colours that lie along a dimension."""
    return cast(Tensor, colours.norm(dim=dim))


def _connected(alike: Tensor, seed: Tensor) -> Tensor:
    """The part of a region [h, w] that hangs together with the seed, which is counted inside ``MIDDLE``."""
    rows, columns = MIDDLE
    row, column = divmod(int(seed), columns.stop - columns.start)
    region = torch.zeros_like(alike, dtype=torch.float32)
    region[rows.start + row, columns.start + column] = 1
    for _ in range(2 * SIDE):
        grown = F.max_pool2d(region[None, None], 3, stride=1, padding=1)[0, 0] * alike
        if torch.equal(grown, region):
            break
        region = grown
    return region > 0


def looks_drawn(picture: Tensor) -> bool:
    """Whether a picture [3, h, w] in 0..1 is a drawing and no photograph, by its middle.

    A drawing's middle is described by few colours, or its neighbours are alike nearly everywhere, as in
    smooth computer graphics. Distances to the palette were at most 0.02 for procedural portraits as PNG;
    as JPEG of quality 75, 0.05 from 256 px on and 0.08 at 128 px (tinted strongly, 0.092); for shaded heads
    0.07; for photographed people 0.097 to 0.18, whether resized, compressed or smoothed, of whom at most
    0.49 was flat. Photographs on plain bright walls can pass. Below 128 px everything counts as drawn.
    """
    height, width = picture.shape[1:]
    if min(height, width) < SEEN:
        return True
    scale, side = SEEN / min(height, width), round(HEART * SEEN)
    size = round(height * scale), round(width * scale)
    small = _shrunk(picture, size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    heart = _without_speckles(small[:, top : top + side, left : left + side])
    return _distance_to_palette(heart) < DRAWN_COLOURS or _flat_share(heart) > DRAWN_FLAT


def _without_speckles(picture: Tensor) -> Tensor:
    """The median of every 3 x 3 pixels, one pixel less at each edge: what JPEG adds around lines is gone."""
    windows = picture.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    return windows.median(dim=3).values


def _distance_to_palette(picture: Tensor) -> float:
    """Median distance of the pixels to ``COLOURS`` colours fitted to them, in shares of their spread."""
    pixels = picture.flatten(1).T
    spread = (pixels - pixels.mean(dim=0)).square().sum(dim=1).mean().sqrt().clamp_min(0.02)
    ranks = torch.linspace(0, len(pixels) - 1, COLOURS).long()
    palette = pixels[pixels.sum(dim=1).argsort()[ranks]]
    for _ in range(ROUNDS):
        nearest = torch.cdist(pixels, palette).argmin(dim=1)
        count = nearest.bincount(minlength=COLOURS)[:, None]
        total = torch.zeros_like(palette).index_add_(0, nearest, pixels)
        palette = torch.where(count > 0, total / count.clamp_min(1), palette)
    return float(torch.cdist(pixels, palette).amin(dim=1).median() / spread)


def _flat_share(picture: Tensor) -> float:
    """Share of the pixels whose right and lower neighbours differ by no more than ``FLAT`` in any colour."""
    right = (picture[:, :-1, 1:] - picture[:, :-1, :-1]).abs().amax(dim=0)
    below = (picture[:, 1:, :-1] - picture[:, :-1, :-1]).abs().amax(dim=0)
    return float((torch.maximum(right, below) < FLAT).float().mean())
