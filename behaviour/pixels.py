"""Measure a drawn face by its pixels: mouth, colours, changes between frames.

Frames are [F, 3, H, W] in 0..1 of a face as ``training/drawing.py`` draws it: coordinates are in picture
sides, and the inside of the mouth has the same colour for every person.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Region(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def crop(self, frames: Tensor) -> Tensor:
        """The region of frames [..., H, W]."""
        height, width = frames.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        return frames[..., rows, round(self.left * width) : round(self.right * width)]


MOUTH = Region(0.46, 0.60, 0.54, 0.80)
"""The columns in the mouth's middle, over all rows it can reach."""
MOUTH_INSIDE = (70 / 255, 15 / 255, 25 / 255)
CHEEKS = (Region(0.34, 0.56, 0.40, 0.62), Region(0.60, 0.56, 0.66, 0.62))
PATCHES = {
    "left cheek": CHEEKS[0],
    "right cheek": CHEEKS[1],
    "crown": Region(0.46, 0.16, 0.54, 0.22),
    "left wall": Region(0.03, 0.10, 0.10, 0.25),
    "right wall": Region(0.90, 0.10, 0.97, 0.25),
    "shirt": Region(0.22, 0.94, 0.30, 0.99),
}
LIPS_END, INSIDE_BEGINS = 0.40, 0.85
"""On the way from the skin's colour (0) to the colour of the mouth's inside (1)."""
OPENING_UNITS = 64
"""Openings are in 64ths of the picture's height."""


def measure_opening(frames: Tensor, portrait: Tensor) -> Tensor:
    """Openings [F] of the mouth's middle, in rows of a picture of 64.

    The portrait [3, H, W] gives the skin's colour. A row counts by its colour's position between the skin's
    and that of the mouth's inside.
    """
    skin = torch.stack([cheek.crop(portrait).flatten(1).median(dim=1).values for cheek in CHEEKS]).mean(dim=0)
    way = torch.tensor(MOUTH_INSIDE).to(frames) - skin
    position = ((MOUTH.crop(frames) - skin[:, None, None]) * way[:, None, None]).sum(dim=1)
    position = position / way.square().sum()
    rows = ((position - LIPS_END) / (INSIDE_BEGINS - LIPS_END)).clamp(0, 1).mean(dim=2).sum(dim=1)
    return rows * OPENING_UNITS / frames.shape[-2]


def measure_colour_errors(frames: Tensor, portrait: Tensor) -> dict[str, float]:
    """Per patch, the difference of the video's mean colour from the portrait's, in 255ths."""

    def mean_colours(frames: Tensor) -> Tensor:
        return torch.stack([patch.crop(frames).mean(dim=(0, 2, 3)) for patch in PATCHES.values()])

    error = (mean_colours(frames) - mean_colours(portrait[None])).abs().mean(dim=1) * 255
    return dict(zip(PATCHES, error.tolist(), strict=True))


def find_nearest(frames: Tensor, portraits: Tensor) -> int:
    """Index of the portrait [N, 3, H, W] that the mean frame is most like."""
    return int((portraits - frames.mean(dim=0)).abs().flatten(1).mean(dim=1).argmin())


def measure_changes(frames: Tensor) -> Tensor:
    """Mean absolute difference between each frame and the next, [F - 1], in 255ths."""
    return (frames[1:] - frames[:-1]).abs().flatten(1).mean(dim=1) * 255


def measure_seams(frames: Tensor, segment_frames: int) -> float:
    """Mean change across segment borders, relative to that inside segments; NaN without a border."""
    changes = measure_changes(frames)
    borders = torch.zeros(len(changes), dtype=torch.bool)
    borders[segment_frames - 1 :: segment_frames] = True
    return float(changes[borders].mean() / changes[~borders].mean())


def measure_drift(frames: Tensor, portrait: Tensor, parts: int = 4) -> list[float]:
    """Error of each part's mean frame to the portrait, in 255ths, from the first part to the last."""
    chunks = torch.chunk(frames, parts)
    return [float((chunk.mean(dim=0) - portrait).abs().mean() * 255) for chunk in chunks]


def measure_sharpness(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, in 255ths."""
    across, down = frames.diff(dim=-1).abs().mean(), frames.diff(dim=-2).abs().mean()
    return float((across + down) / 2 * 255)


def resize_square(picture: Tensor, side: int) -> Tensor:
    """A square picture [3, h, w] at the video's size."""
    return F.interpolate(picture[None], size=(side, side), mode="bilinear", antialias=True)[0]
