"""Muon's update is the orthogonal matrix nearest to the gradient."""

from __future__ import annotations

import pytest
import torch

from training.optim import orthogonalize


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    update = orthogonalize(matrix)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((update * (left @ right)).sum()) > 0.9 * min(shape) ** 0.5 * float(update.norm())
