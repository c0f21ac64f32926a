"""What a drawn face does, read from its pixels: the mouth, the colours, how frames follow each other.

Frames are [F, 3, H, W] in 0..1 of a face as ``training/drawing.py`` draws it: places are shares of the
picture's side, and what is behind open lips has one colour for everybody.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Region(NamedTuple):
    """A rectangle in shares of the side."""

    left: float
    top: float
    right: float
    bottom: float

    def of(self, frames: Tensor) -> Tensor:
        """The region of frames [..., H, W]."""
        height, width = frames.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        return frames[..., rows, round(self.left * width) : round(self.right * width)]


MOUTH = Region(0.46, 0.60, 0.54, 0.80)
"""The columns in the mouth's middle, over all rows it can reach."""
INSIDE = (70 / 255, 15 / 255, 25 / 255)
CHEEKS = (Region(0.34, 0.56, 0.40, 0.62), Region(0.60, 0.56, 0.66, 0.62))
PATCHES = {
    "left cheek": CHEEKS[0],
    "right cheek": CHEEKS[1],
    "crown": Region(0.46, 0.16, 0.54, 0.22),
    "left wall": Region(0.03, 0.10, 0.10, 0.25),
    "right wall": Region(0.90, 0.10, 0.97, 0.25),
    "shirt": Region(0.22, 0.94, 0.30, 0.99),
}
NOT_YET, SURELY = 0.40, 0.85
"""Between skin (0) and the mouth's inside (1): lips end before the first, the inside begins at the second."""
ROWS = 64
"""Openings are counted in rows of a picture of so many."""


def opening(frames: Tensor, portrait: Tensor) -> Tensor:
    """Rows [F] that the mouth is open in its middle, in 64ths of the picture's height.

    The skin's colour is read from the portrait [3, H, W]. In the light of a frame, a row counts by how much
    of the way from skin to the mouth's inside its colour has gone.
    """
    skin = torch.stack([cheek.of(portrait).flatten(1).median(dim=1).values for cheek in CHEEKS]).mean(dim=0)
    way = torch.tensor(INSIDE).to(frames) - skin
    gone = ((MOUTH.of(frames) - skin[:, None, None]) * way[:, None, None]).sum(dim=1) / way.square().sum()
    open_rows = ((gone - NOT_YET) / (SURELY - NOT_YET)).clamp(0, 1).mean(dim=2).sum(dim=1)
    return open_rows * ROWS / frames.shape[-2]


def colours(frames: Tensor) -> Tensor:
    """Mean colour over time of every patch, [patches, 3]."""
    return torch.stack([patch.of(frames).mean(dim=(0, 2, 3)) for patch in PATCHES.values()])


def colour_errors(frames: Tensor, portrait: Tensor) -> dict[str, float]:
    """Per patch, how far the video's mean colour is from the portrait's: mean over channels, in 255ths."""
    error = (colours(frames) - colours(portrait[None])).abs().mean(dim=1) * 255
    return dict(zip(PATCHES, error.tolist(), strict=True))


def nearest(frames: Tensor, portraits: Tensor) -> int:
    """Which of the portraits [N, 3, H, W] the mean frame is most like."""
    return int((portraits - frames.mean(dim=0)).abs().flatten(1).mean(dim=1).argmin())


def differences(frames: Tensor) -> Tensor:
    """Mean absolute difference between each frame and the next, [F - 1], in 255ths."""
    return (frames[1:] - frames[:-1]).abs().flatten(1).mean(dim=1) * 255


def seam_ratio(frames: Tensor, segment_frames: int) -> float:
    """Mean difference across the borders of segments, in those inside them; NaN without a border."""
    found = differences(frames)
    borders = torch.zeros(len(found), dtype=torch.bool)
    borders[segment_frames - 1 :: segment_frames] = True
    return float(found[borders].mean() / found[~borders].mean())


def drift(frames: Tensor, portrait: Tensor, parts: int = 4) -> list[float]:
    """Error of each part's mean frame to the portrait, in 255ths, from the first part to the last."""
    chunks = torch.chunk(frames, parts)
    return [float((chunk.mean(dim=0) - portrait).abs().mean() * 255) for chunk in chunks]


def sharpness(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, in 255ths."""
    across, down = frames.diff(dim=-1).abs().mean(), frames.diff(dim=-2).abs().mean()
    return float((across + down) / 2 * 255)


def at_side(picture: Tensor, side: int) -> Tensor:
    """A square picture [3, h, w] at the video's size."""
    return F.interpolate(picture[None], size=(side, side), mode="bilinear", antialias=True)[0]
