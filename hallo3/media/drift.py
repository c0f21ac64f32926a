"""How far a segment has drifted from its portrait: sharpness, colour, seam and face."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT = 0.1 / 255
"""Less than this is no detail and no movement: a fraction of what rounding to 8 bits does. Added
above and below the line, it makes a ratio of nothing to nothing 1."""
PATCHES = 4
"""Colours are compared on a grid of so many patches a side: coarse enough that a head may turn."""
PIXELS = 2_500_000
"""Pixels of a segment that are looked at: all of a small picture's frames, seven of 480 x 720."""
FEWEST_FRAMES = 3
SMALLEST_SIDE = 3
"""A second difference needs three pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What was measured of one segment; None is what was not.

    ``sharpness`` is the frames' fine detail in shares of the portrait's: 1 is as sharp, less is
    blurred, more is noisy or over-sharpened. ``colour`` is how far colours have shifted from the
    portrait's, mean over patches and channels, in 255ths. ``seam`` is the change from the frame
    before to the segment's first in shares of the mean change from frame to frame inside: about 1
    is a seam that cannot be seen. The first segment has none, nor has one of a single frame.
    ``face`` is the cosine similarity of face embeddings, 1 for the same; whoever has a face
    analyzer adds it with ``dataclasses.replace``.
    """

    sharpness: float | None = None
    colour: float | None = None
    seam: float | None = None
    face: float | None = None

    def as_dict(self) -> dict[str, float]:
        """For JSON: what was measured, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Drift:
        """The way back. Unknown names are passed over; a missing one, or null, was not measured.

        Raises ``ValueError`` for what is no finite number.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: _number(name, values.get(name)) for name in names})


class Column(NamedTuple):
    """Neighbouring segments from ``start`` to ``stop`` (shares of the whole): least, mean and
    greatest of what was measured."""

    start: float
    stop: float
    low: float
    mean: float
    high: float


def measure_drift(frames: Tensor, portrait: Tensor, before: Tensor | None) -> Drift:
    """The drift of a segment's new frames [F, 3, H, W] against the portrait [3, H, W], all in 0..1.

    ``portrait`` is the canvas as the frames show it, ``before`` [3, H, W] the last frame of the
    segment before. Of large pictures only some frames are looked at, evenly spread and always the
    same. Values are assumed to be :func:`finite`. Raises ``ValueError`` for shapes that do not fit.
    """
    _check(frames, portrait, before)
    frames = frames.detach()
    reference = portrait.detach().to(frames.device, torch.float32).clamp(0, 1)
    looked_at = frames[_spread(len(frames), frames.shape[-2:].numel()).to(frames.device)].float()
    return Drift(
        sharpness=_share(_detail(looked_at), _detail(reference[None])),
        colour=_colour_shift(looked_at, reference),
        seam=None if before is None or len(frames) < 2 else _seam(frames, before.detach()),
    )


def finite(frames: Tensor) -> bool:
    """Whether frames of any shape are numbers throughout: no NaN, no infinity."""
    return bool(frames.isfinite().all())


def columns_of(values: Tensor, most: int) -> list[Column]:
    """A long run at a glance: values [N] in at most so many columns of neighbouring segments.

    Values that are not finite were not measured; columns without any other are left out.
    """
    count = max(1, min(len(values), most))
    edges = [place * len(values) // count for place in range(count + 1)]
    found: list[Column] = []
    for start, stop in pairwise(edges):
        known = values[start:stop][values[start:stop].isfinite()]
        if len(known):
            low, mean, high = float(known.min()), float(known.mean()), float(known.max())
            found.append(Column(start / len(values), stop / len(values), low, mean, high))
    return found


def _check(frames: Tensor, portrait: Tensor, before: Tensor | None) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or min(frames.shape[0], *frames.shape[2:]) < 1:
        raise ValueError(f"frames are [F, 3, H, W], not {list(frames.shape)}")
    if min(frames.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"frames have {SMALLEST_SIDE} px a side at least, not {frames.shape[2:]}")
    for name, picture in (("portrait", portrait), ("before", before)):
        if picture is not None and picture.shape != frames.shape[1:]:
            found, wanted = list(picture.shape), list(frames.shape[1:])
            raise ValueError(f"{name} is {found} but the frames are {wanted} each")


def _spread(count: int, pixels: int) -> Tensor:
    """Indices of frames to look at, from the first to the last, as many as there is time for."""
    chosen = min(count, max(FEWEST_FRAMES, PIXELS // pixels))
    return torch.linspace(0, count - 1, chosen, dtype=torch.float64).round().long()


def _detail(frames: Tensor) -> float:
    """Mean second difference of brightness, across and down. Unlike the first, it knows a soft edge
    from a hard one of the same height."""
    grey = frames.mean(dim=1)
    return float(sum(grey.diff(n=2, dim=axis).abs().mean() for axis in (-1, -2)))


def _colour_shift(frames: Tensor, portrait: Tensor) -> float:
    seen, own = F.adaptive_avg_pool2d(torch.stack((frames.mean(dim=0), portrait)), PATCHES)
    return float((seen - own).abs().mean() * 255)


def _seam(frames: Tensor, before: Tensor) -> float:
    first = _spread(len(frames) - 1, frames.shape[-2:].numel()).to(frames.device)
    inside = (frames[first + 1].float() - frames[first].float()).abs().mean()
    across = (frames[0].float() - before.to(frames.device, torch.float32)).abs().mean()
    return _share(float(across), float(inside))


def _share(value: float, whole: float) -> float:
    return (value + FLAT) / (whole + FLAT)


def _number(name: str, value: object) -> float | None:
    """A finite number of a file; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number: {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is not finite")
    return number
