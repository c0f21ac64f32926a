"""Mean and variance of more numbers than fit in memory."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Running mean and population variance of each row, merged in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """The next columns [rows, n], on any device; the spread within a piece is float32's."""
        count = values.shape[1]
        variance, mean = (part.cpu().double() for part in torch.var_mean(values, dim=1, correction=0))
        total = self._count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + variance * count + difference**2 * (self._count * count / total)
        self._count = total

    @property
    def mean(self) -> Tensor:
        """[rows] float64; zero before anything was added."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """[rows] float64, of the population; zero before anything was added."""
        return self._squares / max(self._count, 1)
