"""PSNR and structural similarity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.similarity import compared, psnr, ssim

Y, X = torch.meshgrid(
    torch.arange(16, dtype=torch.float64), torch.arange(24, dtype=torch.float64), indexing="ij"
)
FIRST = torch.stack(((X * 7 + Y * 3) % 11 / 10, (X + 2 * Y) % 7 / 6, (X * Y) % 5 / 4))
OTHER = torch.stack(((X * 7 + Y * 3 + 1) % 11 / 10, (X + 2 * Y) % 7 / 6 * 0.9 + 0.05, (X * Y) % 5 / 4 * 0.5))


@pytest.mark.parametrize(
    ("other", "alike", "decibels"),
    [
        (OTHER, 0.7130885771771434, 12.44328936694769),
        (FIRST * 0.98, 0.9995928129376783, 38.808570574143275),
        (1 - FIRST, -0.9618996893786106, 3.0922129878373767),
    ],
)
def test_values_of_scikit_image(other: Tensor, alike: float, decibels: float) -> None:
    """Of its version 0.26: structural_similarity(channel_axis=0, data_range=1), peak_signal_noise_ratio."""
    assert ssim(FIRST[None], other[None]) == pytest.approx(alike, abs=1e-9)
    assert psnr(FIRST, other) == pytest.approx(decibels, abs=1e-9)


def test_flat_pictures_differ_by_their_light_alone() -> None:
    one, other = torch.full((1, 3, 8, 8), 0.4), torch.full((1, 3, 8, 8), 0.6)
    wanted = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert ssim(one, other) == pytest.approx(wanted, abs=1e-6)


def test_equal_frames_are_alike_and_noise_is_not() -> None:
    drawn = torch.Generator().manual_seed(0)
    one, other = (torch.rand(2, 3, 40, 40, generator=drawn) for _ in range(2))
    assert ssim(one, one) == pytest.approx(1, abs=1e-12)
    assert psnr(one, one) == math.inf
    assert abs(ssim(one, other)) < 0.05


def test_the_worst_frame_is_told() -> None:
    one = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other = one.clone()
    assert compared(one, other) == {"psnr": "equal", "worst_psnr": "equal", "ssim": 1.0}
    other[1] += 0.1
    found = compared(one, other)
    assert found["worst_psnr"] == pytest.approx(20, abs=0.01)
    assert found["psnr"] == pytest.approx(20 + 10 * math.log10(3), abs=0.01)


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 3, 8, 9), (3, 8, 8)])
def test_what_cannot_be_compared(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(shape))
