"""Measure drawn faces by their pixels: mouths, colours, changes between frames.

Frames are [F, 3, H, W] in 0..1 of people as ``training/drawing.py`` draws them: the inside of the mouth has
the same colour for every person. Lengths are in picture heights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MOUTH_INSIDE, LIP_RED = (70 / 255, 15 / 255, 25 / 255), (168 / 255, 52 / 255, 64 / 255)
LIP_SHARE = 0.65
"""Of red in the lips' colour; the rest is skin."""
NOISE = 0.03
"""Of colours, that measures of the mouth's inside are made for."""
LIPS_END, INSIDE_BEGINS = 0.35, 0.85
"""Shares of the mouth's inside in a pixel that count as none and as all."""
MIDDLE_COLUMNS = 3
MIN_CHANGE = 0.02
"""In 255ths; what changes less stands still."""
OPENING_UNITS = 64
"""Openings are in 64ths of the head's height."""
MOUTH_HEIGHT, CHEEKS_HEIGHT = 0.53, 0.2
"""On a globe of 1, below its middle."""
CHEEKS_REACH = (0.45, 0.13)
MOUTH_REACH = (0.42, 0.36)
"""Half of a mouth's region, in halves of the head's width and height."""
SEARCH = (-1.5, -1.2, 1.5, 1.3)
"""Where it is searched, in halves of that region."""
MIN_RED = 0.16, 0.30
"""Red minus green, relative to the brightness, that counts as none and as all of a mouth's inside."""


class Region(NamedTuple):
    """In picture heights."""

    left: float
    top: float
    right: float
    bottom: float

    def crop(self, frames: Tensor) -> Tensor:
        """The region of frames [..., H, W], cut at their edges; at least a pixel."""
        height, width = frames.shape[-2:]
        rows = _to_slice(self.top, self.bottom, height, height)
        return frames[..., rows, _to_slice(self.left, self.right, height, width)]

    def part(self, left: float, top: float, right: float, bottom: float) -> Region:
        """Coordinates from the middle (0) to the edges (-1 and 1)."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        rx, ry = (self.right - self.left) / 2, (self.bottom - self.top) / 2
        return Region(x + left * rx, y + top * ry, x + right * rx, y + bottom * ry)


class Head(NamedTuple):
    """A head's outline, and where it looks: yaw (positive to the picture's right) and pitch (up) in
    radians."""

    box: Region
    yaw: float = 0.0
    pitch: float = 0.0

    def expect_mouth(self) -> Region:
        """The region around the mouth."""
        x, y = self._turn(MOUTH_HEIGHT)
        reach, rise = MOUTH_REACH
        return self.box.part(x - reach, y - rise, x + reach, y + rise)

    def expect_cheeks(self) -> Region:
        """A region between eyes and mouth."""
        x, y = self._turn(CHEEKS_HEIGHT)
        x, (reach, rise) = max(-0.4, min(0.4, x)), CHEEKS_REACH
        return self.box.part(x - reach, y - rise, x + reach, y + rise)

    def _turn(self, down: float) -> tuple[float, float]:
        """Where a point in the face's middle, this far below the globe's, is seen."""
        front = math.sqrt(1 - down**2)
        x, z = front * math.sin(self.yaw), front * math.cos(self.yaw)
        return x, down * math.cos(self.pitch) - z * math.sin(self.pitch)


def _to_slice(start: float, stop: float, scale: int, size: int) -> slice:
    first = min(size - 1, max(0, round(start * scale)))
    return slice(first, max(first + 1, min(size, round(stop * scale))))


def measure_openings(frames: Tensor, portrait: Tensor, head: Head) -> Tensor:
    """Openings [F] of the mouth of the person whose ``head`` is there in the portrait [3, h, w], in 64ths of
    the head's height.

    The share of the mouth's inside in every pixel is found from the colours of skin, lips and hair; the
    opening is its height in the mouth's middle columns. The mouth is where these shares change the most, near
    where the head's direction puts it.
    """
    shares = measure_shares(head.expect_mouth().part(*SEARCH).crop(frames), fit_inside(portrait, head))
    height = frames.shape[-2]
    mouth = head.expect_mouth()
    rows = 2 * max(1, round((mouth.bottom - mouth.top) / 2 * height)) + 1
    columns = 2 * max(1, round((mouth.right - mouth.left) / 2 * height)) + 1
    x, y = find_mouth(shares, rows, columns)
    top, left = max(0, y - rows // 2), max(0, x - columns // 2)
    found = shares[:, top : y + rows // 2 + 1, left : x + columns // 2 + 1]
    return measure_height(found) * OPENING_UNITS / ((head.box.bottom - head.box.top) * height)


def measure_height(shares: Tensor) -> Tensor:
    """Rows [F] that are filled in the highest columns of shares [F, h, w], and rows with anything: the mean
    of both, as a turned mouth is slanted."""
    columns = shares.sum(dim=1)
    highest = columns.topk(min(MIDDLE_COLUMNS, columns.shape[1]), dim=1).values.mean(dim=1)
    return (highest + shares.amax(dim=2).sum(dim=1)) / 2


def measure_shares(frames: Tensor, weights: Tensor) -> Tensor:
    """How much of each pixel of frames [F, 3, h, w] is the inside of a mouth, [F, h, w] in 0..1."""
    position = torch.einsum("fchw,c->fhw", frames, weights[:3]) + weights[3]
    red = (frames[:, 0] - frames[:, 1]) / frames.sum(dim=1).clamp_min(0.1)
    gate = ((red - MIN_RED[0]) / (MIN_RED[1] - MIN_RED[0])).clamp(0, 1)
    return gate * ((position - LIPS_END) / (INSIDE_BEGINS - LIPS_END)).clamp(0, 1)


def find_mouth(shares: Tensor, rows: int, columns: int) -> tuple[int, int]:
    """Column and row of the middle of the region where shares [F, h, w] change the most between frames."""
    change = shares.var(dim=0, correction=0)[None, None]
    padded = F.pad(change, (columns // 2, columns // 2, rows // 2, rows // 2))
    summed = F.avg_pool2d(padded, (rows, columns), stride=1)[0, 0]
    y, x = divmod(int(summed.argmax()), summed.shape[1])
    return x, y


def fit_inside(portrait: Tensor, head: Head) -> Tensor:
    """Weights of red, green and blue, and a constant [4], that are 1 for the mouth's inside and 0 for this
    person's skin, lips, hair and shades, as nearly as ``NOISE`` allows."""
    skin, hair, chin = (measure(portrait, head) for measure in (measure_cheeks, measure_hair, measure_chin))
    lips = (1 - LIP_SHARE) * skin + LIP_SHARE * torch.tensor(LIP_RED).to(skin)
    inside = torch.tensor(MOUTH_INSIDE).to(skin)
    colours = torch.stack((inside, skin, 0.86 * skin, lips, hair, chin))
    importance = torch.tensor((2.0, 1.0, 0.5, 1.0, 0.5, 2.0)).to(skin)[:, None]
    ones = torch.ones(len(colours), 1).to(skin)
    design = torch.cat((colours, ones), dim=1)
    target = torch.zeros(len(colours), 1).to(skin)
    target[0] = 1
    penalty = torch.diag(torch.tensor((NOISE**2,) * 3 + (1e-6,))).to(skin) * importance.sum()
    left = design.T @ (importance * design) + penalty
    return torch.linalg.solve(left, design.T @ (importance * target))[:, 0]


def measure_cheeks(portrait: Tensor, head: Head) -> Tensor:
    """Colour [3] of the skin between eyes and mouth."""
    return head.expect_cheeks().crop(portrait).flatten(1).median(dim=1).values


def measure_skin(portrait: Tensor, head: Region) -> Tensor:
    """Colour [3] of the skin of a head that may look anywhere."""
    return head.part(-0.5, 0.0, 0.5, 0.4).crop(portrait).flatten(1).median(dim=1).values


def measure_hair(portrait: Tensor, head: Head) -> Tensor:
    """Colour [3] of the crown: hair, a hat, or skin."""
    return head.box.part(-0.3, -0.95, 0.3, -0.8).crop(portrait).flatten(1).median(dim=1).values


def measure_chin(portrait: Tensor, head: Head) -> Tensor:
    """Colour [3]: a beard, or skin."""
    return head.box.part(-0.25, 0.82, 0.25, 0.96).crop(portrait).flatten(1).median(dim=1).values


PATCHES = {
    "crown": (-0.3, -0.95, 0.3, -0.75),
    "shirt": (-0.5, 1.25, 0.5, 1.5),
}
"""From the head's middle, in halves of its width and height."""
TOGETHER = 250
"""Frames that are compared at once: a long video fits in memory only once."""
SAMPLES = 24
"""Pixels per side of heads that are compared."""


def measure_colour_errors(frames: Tensor, portrait: Tensor, head: Head) -> dict[str, float]:
    """Per patch, the difference of the video's median colour from the portrait's, in 255ths."""

    def colour(frames: Tensor, region: Region) -> Tensor:
        return region.crop(frames).transpose(0, 1).flatten(1).median(dim=1).values

    regions = {name: head.box.part(*patch) for name, patch in PATCHES.items()}
    regions["face"] = head.expect_cheeks()
    return {
        name: float((colour(frames, region) - colour(portrait[None], region)).abs().mean() * 255)
        for name, region in regions.items()
    }


def find_nearest(frames: Tensor, head: Head, portraits: Sequence[Tensor], heads: Sequence[Head]) -> int:
    """Index of the portrait [3, h, w] with the head that the mean frame's ``head`` is most like."""
    mean = _sample_head(frames.mean(dim=0), head)
    errors = [
        float((_sample_head(portrait, each) - mean).abs().mean())
        for portrait, each in zip(portraits, heads, strict=True)
    ]
    return errors.index(min(errors))


def _sample_head(picture: Tensor, head: Head) -> Tensor:
    return resize(head.box.crop(picture), SAMPLES, SAMPLES)


def measure_changes(frames: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean absolute difference between each frame and the next, [F - 1], in 255ths; of the whole picture, or
    of the pixels ``where`` [H, W] is true."""
    changes: list[Tensor] = []
    for start in range(0, len(frames) - 1, TOGETHER):
        change = frames[start : start + TOGETHER + 1].diff(dim=0).abs()
        changes.append((change if where is None else change[..., where]).flatten(1).mean(dim=1) * 255)
    return torch.cat(changes)


def measure_seams(changes: Tensor, segment_frames: int) -> float:
    """Mean of the ``changes`` [F - 1] across segment borders, relative to those inside; NaN without a
    border."""
    borders = torch.zeros(len(changes), dtype=torch.bool)
    borders[segment_frames - 1 :: segment_frames] = True
    return float(changes[borders].mean() / changes[~borders].mean().clamp_min(MIN_CHANGE))


def measure_drift(frames: Tensor, portrait: Tensor, parts: int = 4) -> list[float]:
    """Error of each part's mean frame to the portrait, in 255ths, from the first part to the last."""
    chunks = torch.chunk(frames, parts)
    return [float((chunk.mean(dim=0) - portrait).abs().mean() * 255) for chunk in chunks]


def measure_sharpness(frames: Tensor) -> float:
    """Root mean square of the differences of neighbouring pixels, in 255ths: edges count, noise hardly."""
    squares = [
        len(part) * float(part.diff(dim=-1).square().mean() + part.diff(dim=-2).square().mean()) / 2
        for part in frames.split(TOGETHER)
    ]
    return float((sum(squares) / len(frames)) ** 0.5 * 255)


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture [3, h, w] at the video's size."""
    return F.interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True)[0]
