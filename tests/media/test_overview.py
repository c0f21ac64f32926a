"""The picture that tells what will be used of a portrait."""

from __future__ import annotations

import torch

from hallo3.media.canvas import fit
from hallo3.media.overview import BOX, CUT_OFF, overview
from hallo3.shapes import VideoShape

SHAPE = VideoShape(49, 320, 480)


def test_what_is_cut_off_is_dark_and_what_stays_is_the_canvas() -> None:
    picture = torch.rand(3, 960, 480, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    shown = overview(picture, torch.zeros(960, 480), SHAPE)
    assert shown.shape == (3, 960, 480)
    torch.testing.assert_close(shown[:, :320], picture[:, :320] * CUT_OFF)
    canvas = (fit(picture, SHAPE).pixels[0, :, 0] + 1) / 2
    torch.testing.assert_close(shown[:, 320:640], canvas.clamp(0, 1), atol=0.02, rtol=0)


def test_a_square_picture_stands_between_bars() -> None:
    picture = torch.ones(3, 80, 80)
    shown = overview(picture, torch.zeros(80, 80), SHAPE)
    assert shown.shape == (3, 320, 480)
    assert float(shown[:, :, :80].max()) < 0.3
    torch.testing.assert_close(shown[:, :, 80:400], torch.ones(3, 320, 320))
    assert overview(picture, torch.zeros(80, 80), VideoShape(49, 64, 96)).shape == (3, 448, 672)


def test_the_box_is_round_the_face() -> None:
    mask = torch.zeros(320, 480)
    mask[20:40, 30:60] = 1
    shown = overview(torch.zeros(3, 320, 480), mask, SHAPE)
    lit = (shown - torch.tensor(BOX)[:, None, None]).abs().sum(dim=0) < 1e-6
    assert (int(lit.nonzero()[:, 0].min()), int(lit.nonzero()[:, 0].max())) == (20, 39)
    assert (int(lit.nonzero()[:, 1].min()), int(lit.nonzero()[:, 1].max())) == (30, 59)
    assert not bool(lit[25:35, 35:55].any())
