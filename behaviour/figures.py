"""How well a video behaves: figures of one clip, and of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from .mouth import Mouth
from .pixels import at_side, colour_errors, drift, nearest, opening, seam_ratio, sharpness

LAGS = range(-3, 4)
LOUD, QUIET = 0.6, 0.05
"""Openings that the rule asks for in loud speech and in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One video against what it was made from.

    ``follows`` is the correlation of the mouth's opening with what the speech asks for, ``control`` with what
    another recording asks for, ``lag`` the delay in frames at which it is highest. ``amplitude`` is the
    opening in loud speech less that in none, in shares of the truth; ``silent`` the opening in none in shares
    of that in loud speech. ``colour`` and ``worst_colour`` are errors of patches in 255ths; ``own`` says
    whether its own portrait is the nearest. ``seam`` is a ratio, ``drift`` the last quarter's error in shares
    of the first's. What cannot be measured is NaN.
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
        """For tables and files."""
        return {key: float(value) for key, value in asdict(self).items()}


def figures(
    frames: Tensor,
    portrait: Tensor,
    mouth: Mouth,
    *,
    new_frames: int,
    other: Mouth | None = None,
    truth: Tensor | None = None,
    strangers: Sequence[Tensor] = (),
) -> Figures:
    """Frames [F, 3, S, S] in 0..1 of a portrait [3, h, w], against the mouth [F] that its speech asks for.

    ``other`` is another recording's mouth, ``truth`` [F] openings in rows, ``strangers`` other portraits.
    """
    side = frames.shape[-1]
    reference = at_side(portrait, side)
    rows = opening(frames, reference).numpy()
    asked = mouth.open[: len(rows)]
    by_lag = {lag: correlation(rows, asked, lag) for lag in LAGS}
    errors = colour_errors(frames, reference)
    gallery = torch.stack([reference, *(at_side(stranger, side) for stranger in strangers)])
    parts = drift(frames, reference)
    return Figures(
        follows=by_lag[0],
        control=float("nan") if other is None else correlation(rows, other.open, 0),
        lag=max(by_lag, key=lambda lag: by_lag[lag]),
        amplitude=np.nan
        if truth is None
        else _share(amplitude(rows, asked), amplitude(truth.numpy(), asked)),
        silent=_share(_mean(rows, asked < QUIET), _mean(rows, asked > LOUD)),
        colour=fmean(errors.values()),
        worst_colour=max(errors.values()),
        own=nearest(frames, gallery) == 0,
        seam=seam_ratio(frames, new_frames),
        drift=_share(parts[-1], parts[0]),
        sharpness=_share(sharpness(frames), sharpness(reference[None])),
    )


def correlation(rows: np.ndarray, asked: np.ndarray, lag: int) -> float:
    """Of openings with what was asked for so many frames before; NaN where either does not move."""
    length = min(len(rows), len(asked)) - abs(lag)
    seen = rows[max(0, lag) : max(0, lag) + length]
    wanted = asked[max(0, -lag) : max(0, -lag) + length]
    if length < 2 or seen.std() < 1e-6 or wanted.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(seen, wanted)[0, 1])


def amplitude(rows: np.ndarray, asked: np.ndarray) -> float:
    """Rows that the mouth is more open in loud speech than in none."""
    return _mean(rows, asked > LOUD) - _mean(rows, asked < QUIET)


def summary(found: Sequence[Figures]) -> dict[str, float]:
    """Means over clips, and the worst of what has a floor for each."""
    rows = [one.as_dict() for one in found]
    means = {key: _nanmean([row[key] for row in rows]) for key in rows[0]}
    follows = [row["follows"] for row in rows]
    return {
        **means,
        "lag": float(np.median([row["lag"] for row in rows])),
        "worst_follows": min(follows),
        "worst_seam": max(row["seam"] for row in rows),
    }


def _share(value: float, whole: float) -> float:
    return value / whole if whole else float("nan")


def _mean(rows: np.ndarray, chosen: np.ndarray) -> float:
    return float(rows[: len(chosen)][chosen[: len(rows)]].mean()) if chosen.any() else float("nan")


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else float("nan")
