"""How far a segment has drifted from its portrait: sharpness, colour, seam and face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT = 0.1 / 255
"""Less detail or change counts as none; added to both sides of a ratio, it makes nothing to nothing 1."""
PATCHES = 4
"""Colours are compared on a grid of 4 x 4 patches: coarse enough that a head may turn."""
MAX_PIXELS = 2_500_000
"""Pixels of a segment to measure: all frames of a small picture, seven of 480 x 720."""
MIN_FRAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Measures of one segment; None is not measured.

    ``sharpness``: fine detail relative to the portrait's; less is blurred, more is noisy or over-sharpened.
    ``colour``: mean colour shift from the portrait over patches and channels, in 255ths. ``seam``: the change
    from the frame before to the segment's first, relative to the mean change between frames inside; about 1
    is invisible. The first segment has none, nor has one of a single frame. ``face``: cosine similarity of
    face embeddings, added by whoever has a face analyzer.
    """

    sharpness: float | None = None
    colour: float | None = None
    seam: float | None = None
    face: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Drift:
        """Read :meth:`as_dict`. Unknown names are ignored, missing ones and null are not measured. Raises
        ``ValueError`` for anything but finite numbers."""
        measures: dict[str, float] = {}
        for name in (field.name for field in fields(cls) if values.get(field.name) is not None):
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e308:
                raise ValueError(f"{name} must be a finite number, not {value!r:.60}")
            measures[name] = float(value)
        return cls(**measures)


def measure_drift(frames: Tensor, portrait: Tensor, before: Tensor | None) -> Drift:
    """The drift of a segment's new frames [F, 3, H, W] from the portrait [3, H, W], all in 0..1 and finite.
    ``portrait`` is the canvas as the frames show it, ``before`` [3, H, W] the last frame of the previous
    segment. Of large pictures some frames are measured, always the same. Raises ``ValueError``."""
    if frames.ndim != 4 or frames.shape[1] != 3 or min(3 * len(frames), *frames.shape[2:]) < 3:
        raise ValueError(f"frames are [F, 3, H, W] of at least 3 x 3 pixels, not {list(frames.shape)}")
    for name, picture in (("portrait", portrait), ("before", before)):
        if picture is not None and picture.shape != frames.shape[1:]:
            raise ValueError(f"{name} is {list(picture.shape)}, but frames are {list(frames.shape[1:])} each")
    frames = frames.detach()
    reference = portrait.detach().to(frames.device, torch.float32).clamp(0, 1)
    sample = frames[_spread(frames)].float()
    colours, own = F.adaptive_avg_pool2d(torch.stack((sample.mean(dim=0), reference)), PATCHES)
    seam = None
    if before is not None and len(frames) > 1:
        first = _spread(frames[1:])
        inside = (frames[first + 1].float() - frames[first].float()).abs().mean()
        across = (frames[0].float() - before.detach().to(frames.device, torch.float32)).abs().mean()
        seam = _ratio(float(across), float(inside))
    return Drift(
        sharpness=_ratio(_measure_detail(sample), _measure_detail(reference[None])),
        colour=float((colours - own).abs().mean() * 255),
        seam=seam,
    )


def _spread(frames: Tensor) -> Tensor:
    """Indices of the frames to measure, from the first to the last."""
    count = min(len(frames), max(MIN_FRAMES, MAX_PIXELS // frames.shape[-2:].numel()))
    return torch.linspace(0, len(frames) - 1, count, dtype=torch.float64).round().long().to(frames.device)


def _measure_detail(frames: Tensor) -> float:
    """Mean second difference of brightness: unlike the first, smaller for a soft edge than for a hard one."""
    grey = frames.mean(dim=1)
    return float(sum(grey.diff(n=2, dim=axis).abs().mean() for axis in (-1, -2)))


def _ratio(value: float, reference: float) -> float:
    return (value + FLAT) / (reference + FLAT)
