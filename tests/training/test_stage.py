"""A stage that was stopped and goes on equals one that was not; averages and updates are what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from training.optim import Average, Optimiser, orthogonal
from training.stage import Run

STEPS = 24


class StopError(Exception):
    """Somebody pulled the plug."""


def things() -> tuple[nn.Module, Optimiser, Average]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return network, Optimiser(network, STEPS, muon=0.02, adamw=1e-2, ends=("2.",)), Average(network, 0.9)


def train(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """Learn to be the mean of the inputs; with a checkpoint after every step."""
    network, optimiser, average = things()

    def step(index: int) -> Mapping[str, float]:
        if index == stop_at:
            raise StopError
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(index))
        loss = (network(inputs) - inputs.mean(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimiser.step(index)
        average.update(index)
        return {"loss": float(loss.detach())}

    run = Run(folder=folder, name="mean", steps=STEPS, seed=0)
    run.train(step, {"network": network, "optimiser": optimiser, "average": average}, every_seconds=0)
    assert run.done() == STEPS
    return run.state("average")


@pytest.mark.parametrize("stop_at", [1, 7, 22])
def test_resumed_equals_undisturbed(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(StopError):
        train(tmp_path / "stopped", stop_at)
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    curves = [(tmp_path / name / "mean.csv").read_text().splitlines() for name in ("whole", "stopped")]
    steps = [[line.split(",")[0] for line in lines] for lines in curves]
    assert steps[0] == steps[1] == ["step", "20", "24"]


def test_it_learns(tmp_path: Path) -> None:
    network, _, _ = things()
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(99))
    wanted = inputs.mean(dim=1, keepdim=True)

    def error() -> float:
        return float((network(inputs) - wanted).square().mean().detach())

    before = error()
    network.load_state_dict(train(tmp_path))
    assert error() < 0.5 * before


def test_a_finished_stage_does_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    train(tmp_path, stop_at=0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((orthogonal(matrix) * (left @ right)).sum()) > 0.9 * min(shape) ** 0.5 * float(
        orthogonal(matrix).norm()
    )
