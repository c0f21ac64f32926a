"""Figures of painted videos are what was painted; a shifted picture has its shift."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from behaviour.carry import measure_shift
from behaviour.figures import Figures, measure_video, summarize
from behaviour.mouth import Mouth
from behaviour.pixels import MOUTH_INSIDE, find_nearest, measure_colour_errors, measure_opening, resize_square

SKIN = torch.tensor((0.8, 0.6, 0.5))
SIDE, NEW_FRAMES = 64, 10


def paint_face(rows: float, shade: float = 1.0) -> Tensor:
    """Skin with a mouth open by ``rows``; part of a row is a mixture."""
    picture = (shade * SKIN)[:, None, None].expand(3, SIDE, SIDE).clone()
    inside = torch.tensor(MOUTH_INSIDE)
    for row in range(math.ceil(rows)):
        share = min(1.0, rows - row)
        picture[:, 40 + row, 24:40] = (inside * share + SKIN * (1 - share))[:, None]
    return picture


def make_mouth(frames: int) -> Mouth:
    """Loud and silent in turn, with everything between."""
    opening = np.clip(0.6 - 0.9 * np.cos(np.arange(frames) / 3), 0, 1).astype(np.float32)
    return Mouth(opening, np.full(frames, 0.5, np.float32))


MOUTH = make_mouth(60)


def paint_video(mouth: Mouth = MOUTH, delay: int = 0, scale: float = 8.0) -> Tensor:
    openings = [scale * float(mouth.open[max(0, i - delay)]) for i in range(len(mouth.open))]
    return torch.stack([paint_face(rows) for rows in openings])


def measure(frames: Tensor, mouth: Mouth = MOUTH, strangers: Sequence[Tensor] = (), **more: Any) -> Figures:
    return measure_video(frames, paint_face(0), mouth, new_frames=NEW_FRAMES, strangers=strangers, **more)


@pytest.mark.parametrize("rows", [0.0, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("side", [64, 128])
def test_openings_are_counted_in_rows(rows: float, side: int) -> None:
    picture = resize_square(paint_face(rows), side)
    assert float(measure_opening(picture[None], paint_face(0))[0]) == pytest.approx(rows, abs=0.7)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delayed_mouth_has_its_lag(delay: int) -> None:
    figures = measure(paint_video(delay=delay))
    assert figures.lag == delay
    assert figures.follows > 0.95 if delay == 0 else figures.follows < 0.95


def test_control_amplitude_and_silence() -> None:
    truth = measure_opening(paint_video(), paint_face(0))
    full = measure(paint_video(), other=Mouth(np.roll(MOUTH.open, 10), MOUTH.wide), truth=truth)
    half = measure(paint_video(scale=4.0), truth=truth)
    assert full.control < 0
    assert full.amplitude == pytest.approx(1)
    assert half.amplitude == pytest.approx(0.5, abs=0.1)
    assert full.silent < 0.02
    still = measure(paint_face(3)[None].expand(60, -1, -1, -1))
    assert math.isnan(still.follows)
    assert still.silent == pytest.approx(1)


def test_identity_and_colour() -> None:
    strangers = [paint_face(0, 0.8), paint_face(0, 1.2)]
    figures = measure(paint_video(), strangers=strangers)
    assert figures.own
    assert figures.colour < 1
    darker = measure(0.9 * paint_video(), strangers=strangers)
    assert darker.colour == pytest.approx(0.1 * float(SKIN.mean()) * 255, rel=0.05)
    assert find_nearest(0.8 * paint_video(), torch.stack([paint_face(0), *strangers])) == 1
    assert set(measure_colour_errors(paint_video(), paint_face(0))) >= {"left cheek", "shirt"}


def test_seams_and_drift() -> None:
    smooth = torch.linspace(0.2, 0.4, 40)[:, None, None, None].expand(40, 3, SIDE, SIDE).clone()
    mouth = make_mouth(40)
    assert measure(smooth, mouth).seam == pytest.approx(1, abs=0.01)
    smooth[20:] += 0.05
    assert 3 < measure(smooth, mouth).seam < 5
    brighter = paint_video(make_mouth(80), scale=0) + torch.linspace(0.01, 0.03, 80)[:, None, None, None]
    assert 2 < measure(brighter, make_mouth(80)).drift < 3


def test_a_summary_keeps_the_worst() -> None:
    good = measure(paint_video())
    summary = summarize([good, replace(good, follows=0.2, seam=9.0)])
    assert summary["worst_follows"] == 0.2
    assert summary["worst_seam"] == 9.0
    assert summary["follows"] == pytest.approx((good.follows + 0.2) / 2)


@pytest.mark.parametrize("pixels", [-1.0, 0.5, 2.0])
def test_shifts_are_measured(pixels: float) -> None:
    def waves(shift: float) -> Tensor:
        return torch.sin((torch.arange(64) - shift) / 8).expand(3, 64, 64)

    assert measure_shift(waves(0), waves(pixels)) == pytest.approx(pixels, abs=0.05)
