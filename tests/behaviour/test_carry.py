"""A shifted picture has its shift."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from behaviour.carry import measure_shift


@pytest.mark.parametrize("pixels", [-1.0, 0.5, 2.0])
def test_shifts_are_measured(pixels: float) -> None:
    def waves(shift: float) -> Tensor:
        return torch.sin((torch.arange(64) - shift) / 8).expand(3, 64, 64)

    assert measure_shift(waves(0), waves(pixels)) == pytest.approx(pixels, abs=0.05)
