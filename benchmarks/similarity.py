"""How alike two videos are: PSNR, and structural similarity (Wang et al. 2004, as scikit-image has it)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

WINDOW = 7
"""Pixels a side of the squares that are compared."""
STABLE = 0.01**2, 0.03**2
"""What keeps shares of nothing defined, for values in 0..1."""


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Decibels between frames of any one shape in 0..1; infinite for equal ones."""
    return _decibels(float((found.double() - wanted.double()).square().mean()))


def _decibels(error: float) -> float:
    return -10 * math.log10(error) if error else math.inf


def ssim(found: Tensor, wanted: Tensor) -> float:
    """Structural similarity of frames [F, 3, H, W] in 0..1: the mean over channels and all squares that lie
    inside, with sample variances; 1 for equal ones. Raises ``ValueError`` for shapes that differ or are too
    small."""
    if found.shape != wanted.shape or found.ndim != 4 or min(found.shape[-2:]) < WINDOW:
        raise ValueError(f"cannot compare {list(found.shape)} with {list(wanted.shape)}")
    each = [_of_a_frame(one, other) for one, other in zip(found.double(), wanted.double(), strict=True)]
    return sum(each) / len(each)


def _of_a_frame(found: Tensor, wanted: Tensor) -> float:
    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, WINDOW, 1)

    light, contrast = STABLE
    sampled = WINDOW**2 / (WINDOW**2 - 1)
    a, b = mean(found), mean(wanted)
    spread = sampled * (mean(found * found) + mean(wanted * wanted) - a * a - b * b)
    shared = sampled * (mean(found * wanted) - a * b)
    top = (2 * a * b + light) * (2 * shared + contrast)
    return float((top / ((a * a + b * b + light) * (spread + contrast))).mean())


def compared(found: Tensor, wanted: Tensor) -> dict[str, float | str]:
    """Both of two videos [F, 3, H, W], and the PSNR of the frame that is furthest off; "equal" has none."""
    pairs = zip(found, wanted, strict=True)
    errors = [float((one.double() - other.double()).square().mean()) for one, other in pairs]
    return {
        "psnr": _told(sum(errors) / len(errors)),
        "worst_psnr": _told(max(errors)),
        "ssim": round(ssim(found, wanted), 4),
    }


def _told(error: float) -> float | str:
    return round(_decibels(error), 2) if error else "equal"
