"""Figures of one video, and their summary over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from .mouth import Mouth
from .pixels import (
    find_nearest,
    measure_colour_errors,
    measure_drift,
    measure_opening,
    measure_seams,
    measure_sharpness,
    resize_square,
)

LAGS = range(-3, 4)
LOUD_OPENING, QUIET_OPENING = 0.6, 0.05
"""By the mouth rule: above and below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One video compared with its portrait and speech. What cannot be measured is NaN.

    ``follows`` is the correlation of the mouth's opening with the mouth rule on its speech, ``control`` on
    another recording, ``lag`` the delay in frames with the highest correlation. ``amplitude`` is the opening
    in loud speech minus that in silence, relative to the truth; ``silent`` the opening in silence relative to
    loud speech. ``colour`` and ``worst_colour`` are errors of patches in 255ths; ``own`` is whether the
    own portrait is the nearest. ``seam`` is a ratio, ``drift`` the last quarter's error relative to the
    first's, ``sharpness`` relative to the portrait.
    """

    follows: float
    control: float
    lag: int
    amplitude: float
    silent: float
    colour: float
    worst_colour: float
    own: bool
    seam: float
    drift: float
    sharpness: float

    def as_dict(self) -> dict[str, float]:
        return {key: float(value) for key, value in asdict(self).items()}


def measure_video(
    frames: Tensor,
    portrait: Tensor,
    mouth: Mouth,
    *,
    new_frames: int,
    other: Mouth | None = None,
    truth: Tensor | None = None,
    strangers: Sequence[Tensor] = (),
) -> Figures:
    """Figures of frames [F, 3, S, S] in 0..1 of a portrait [3, h, w] and the mouth [F] of its speech.

    ``other`` is another recording's mouth, ``truth`` [F] openings in rows, ``strangers`` other portraits.
    """
    side = frames.shape[-1]
    reference = resize_square(portrait, side)
    rows = measure_opening(frames, reference).numpy()
    asked = mouth.open[: len(rows)]
    by_lag = {lag: correlate(rows, asked, lag) for lag in LAGS}
    errors = measure_colour_errors(frames, reference)
    gallery = torch.stack([reference, *(resize_square(stranger, side) for stranger in strangers)])
    parts = measure_drift(frames, reference)
    return Figures(
        follows=by_lag[0],
        control=float("nan") if other is None else correlate(rows, other.open, 0),
        lag=max(by_lag, key=lambda lag: by_lag[lag]),
        amplitude=np.nan
        if truth is None
        else _divide(measure_amplitude(rows, asked), measure_amplitude(truth.numpy(), asked)),
        silent=_divide(_mean(rows, asked < QUIET_OPENING), _mean(rows, asked > LOUD_OPENING)),
        colour=fmean(errors.values()),
        worst_colour=max(errors.values()),
        own=find_nearest(frames, gallery) == 0,
        seam=measure_seams(frames, new_frames),
        drift=_divide(parts[-1], parts[0]),
        sharpness=_divide(measure_sharpness(frames), measure_sharpness(reference[None])),
    )


def correlate(rows: np.ndarray, asked: np.ndarray, lag: int) -> float:
    """Correlation of openings with the rule ``lag`` frames earlier; NaN if either is constant."""
    length = min(len(rows), len(asked)) - abs(lag)
    measured = rows[max(0, lag) : max(0, lag) + length]
    target = asked[max(0, -lag) : max(0, -lag) + length]
    if length < 2 or measured.std() < 1e-6 or target.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(measured, target)[0, 1])


def measure_amplitude(rows: np.ndarray, asked: np.ndarray) -> float:
    """Opening in loud speech minus that in silence, in rows."""
    return _mean(rows, asked > LOUD_OPENING) - _mean(rows, asked < QUIET_OPENING)


def summarize(figures: Sequence[Figures]) -> dict[str, float]:
    """Means over videos, and the worst of the figures that have a floor per video."""
    rows = [each.as_dict() for each in figures]
    means = {key: _nanmean([row[key] for row in rows]) for key in rows[0]}
    follows = [row["follows"] for row in rows]
    return {
        **means,
        "lag": float(np.median([row["lag"] for row in rows])),
        "worst_follows": min(follows),
        "worst_seam": max(row["seam"] for row in rows),
    }


def _divide(value: float, whole: float) -> float:
    return value / whole if whole else float("nan")


def _mean(rows: np.ndarray, chosen: np.ndarray) -> float:
    return float(rows[: len(chosen)][chosen[: len(rows)]].mean()) if chosen.any() else float("nan")


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
