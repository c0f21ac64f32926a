from __future__ import annotations

import pytest
import torch

from hallo3.media.drawing import Pen, round_step


@pytest.mark.parametrize(
    ("minimum", "step"), [(0.011, 0.02), (0.1, 0.1), (0.3, 0.5), (1, 1), (7, 10), (2000, 2000)]
)
def test_steps_are_round(minimum: float, step: float) -> None:
    assert round_step(minimum) == pytest.approx(step)


def test_a_page_and_a_picture_are_drawn_on_in_their_own_pixels() -> None:
    picture = torch.zeros(3, 20, 30)
    for pen in (Pen.on_picture(picture), Pen.on_page(30, 20)):
        pen.box((10, 5, 19, 14), "#ff0000")
        drawing = pen.picture()
        assert drawing.shape == (3, 20, 30)
        assert drawing[:, 6, 12].tolist() == [1, 0, 0]
        assert drawing[:, 16, 12].tolist() != [1, 0, 0]
    assert float(picture.max()) == 0
