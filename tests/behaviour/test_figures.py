"""The figures say what was done to a video: each is tried on frames made for it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from behaviour.carry import moved_by
from behaviour.figures import figures, summary
from behaviour.mouth import Mouth
from behaviour.pixels import INSIDE, at_side, colour_errors, nearest, opening, seam_ratio

SKIN = torch.tensor((0.8, 0.6, 0.5))
SIDE, NEW_FRAMES = 64, 10


def face(rows: float, shade: float = 1.0) -> Tensor:
    """A picture of skin with a mouth open by so many rows; part of a row is a mixture."""
    picture = (shade * SKIN)[:, None, None].expand(3, SIDE, SIDE).clone()
    inside = torch.tensor(INSIDE)
    for row in range(math.ceil(rows)):
        share = min(1.0, rows - row)
        picture[:, 40 + row, 24:40] = (inside * share + SKIN * (1 - share))[:, None]
    return picture


def speech(frames: int) -> Mouth:
    """Loud and silent in turn, with everything between."""
    opened = np.clip(0.6 - 0.9 * np.cos(np.arange(frames) / 3), 0, 1).astype(np.float32)
    return Mouth(opened, np.full(frames, 0.5, np.float32))


def video(mouth: Mouth, delay: int = 0, scale: float = 8.0) -> Tensor:
    return torch.stack([face(scale * float(mouth.open[max(0, i - delay)])) for i in range(len(mouth.open))])


@pytest.mark.parametrize("rows", [0.0, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("side", [64, 128])
def test_openings_are_counted_in_rows(rows: float, side: int) -> None:
    picture = at_side(face(rows), side)
    assert float(opening(picture[None], face(0))[0]) == pytest.approx(rows, abs=0.7)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_late_mouth_is_told(delay: int) -> None:
    mouth = speech(60)
    found = figures(video(mouth, delay), face(0), mouth, new_frames=NEW_FRAMES)
    assert found.lag == delay
    assert found.follows > 0.95 if delay == 0 else found.follows < 0.95


def test_controls_amplitudes_and_silence() -> None:
    mouth = speech(60)
    other = Mouth(np.roll(mouth.open, 10), mouth.wide)
    truth = opening(video(mouth), face(0))
    full = figures(video(mouth), face(0), mouth, new_frames=NEW_FRAMES, other=other, truth=truth)
    half = figures(video(mouth, scale=4.0), face(0), mouth, new_frames=NEW_FRAMES, truth=truth)
    assert full.control < 0
    assert full.amplitude == pytest.approx(1)
    assert half.amplitude == pytest.approx(0.5, abs=0.1)
    assert full.silent < 0.02
    still = figures(face(3)[None].expand(60, -1, -1, -1), face(0), mouth, new_frames=NEW_FRAMES)
    assert math.isnan(still.follows)
    assert still.silent == pytest.approx(1)


def test_seams() -> None:
    smooth = torch.linspace(0.2, 0.4, 40)[:, None, None, None].expand(40, 3, SIDE, SIDE).clone()
    assert seam_ratio(smooth, NEW_FRAMES) == pytest.approx(1, abs=0.01)
    smooth[20:] += 0.05
    assert 3 < seam_ratio(smooth, NEW_FRAMES) < 5


def test_who_it_is_and_what_colour() -> None:
    mouth = speech(40)
    strangers = [face(0, 0.8), face(0, 1.2)]
    found = figures(video(mouth), face(0), mouth, new_frames=NEW_FRAMES, strangers=strangers)
    assert found.own
    assert found.colour < 1
    darker = figures(0.9 * video(mouth), face(0), mouth, new_frames=NEW_FRAMES, strangers=strangers)
    assert darker.colour == pytest.approx(0.1 * float(SKIN.mean()) * 255, rel=0.05)
    assert nearest(0.8 * video(mouth), torch.stack([face(0), *strangers])) == 1
    assert set(colour_errors(video(mouth), face(0))) >= {"left cheek", "shirt"}


def test_drift() -> None:
    mouth = speech(80)
    frames = video(mouth, scale=0) + torch.linspace(0.01, 0.03, 80)[:, None, None, None]
    assert 2 < figures(frames, face(0), mouth, new_frames=NEW_FRAMES).drift < 3


def test_a_summary_keeps_the_worst() -> None:
    mouth = speech(60)
    good = figures(video(mouth), face(0), mouth, new_frames=NEW_FRAMES)
    found = summary([good, replace(good, follows=0.2, seam=9.0)])
    assert found["worst_follows"] == 0.2
    assert found["worst_seam"] == 9.0
    assert found["follows"] == pytest.approx((good.follows + 0.2) / 2)


@pytest.mark.parametrize("pixels", [-1.0, 0.5, 2.0])
def test_movement_is_told(pixels: float) -> None:
    x = torch.arange(SIDE, dtype=torch.float32)

    def waves(shift: float) -> Tensor:
        return torch.sin((x - shift) / 8).expand(3, SIDE, SIDE)

    assert moved_by(waves(0), waves(pixels)) == pytest.approx(pixels, abs=0.05)
