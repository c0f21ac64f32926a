"""A resumed stage equals an uninterrupted one, two processes equal one; Muon's update is the nearest
orthogonal matrix."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from training.optim import Optimiser, WeightAverage, orthogonalize
from training.parallel import is_first, run_in_processes, take_share
from training.stage import Run

STEPS = 24


class InterruptError(Exception):
    pass


def make_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def error(network: nn.Module, seed: int, samples: int) -> torch.Tensor:
    """Of predicting the mean of random inputs."""
    inputs = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    inputs = take_share(inputs)
    return (network(inputs) - inputs.mean(dim=1, keepdim=True)).square().mean()


def train_stage(options: Namespace) -> None:
    train(options.out)


def train(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """The averaged weights of a stage with a checkpoint after every step."""
    network = make_network()
    optimiser = Optimiser(network, STEPS, muon=0.02, adamw=1e-2, adamw_layers=("2.",))
    average = WeightAverage(network, 0.9)

    def step(index: int) -> Mapping[str, float]:
        if index == stop_at:
            raise InterruptError
        loss = error(network, index, 16)
        loss.backward()
        optimiser.step(index)
        average.update(index)
        return {"loss": float(loss.detach())}

    run = Run(folder=folder, name="mean", steps=STEPS, seed=0)
    objects = {"network": network, "optimiser": optimiser, "average": average}
    run.train(step, objects, checkpoint_seconds=0)
    if not is_first():
        return {}
    assert run.completed_steps() == STEPS
    return run.state("average")


@pytest.mark.parametrize("stop_at", [1, 7, 22])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptError):
        train(tmp_path / "stopped", stop_at)
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    for name in ("whole", "stopped"):
        lines = (tmp_path / name / "mean.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["step", "20", "24"]
    train(tmp_path / "whole", stop_at=0)  # a finished stage runs no step


def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    whole = train(tmp_path / "one")
    run_in_processes(train_stage, Namespace(out=tmp_path / "two"), 2)
    shared = Run(folder=tmp_path / "two", name="mean", steps=STEPS, seed=0).state("average")
    for key, weight in whole.items():
        torch.testing.assert_close(shared[key], weight, rtol=1e-4, atol=1e-5)


def test_a_figure_that_is_not_a_number_stops_the_stage(tmp_path: Path) -> None:
    network, run = make_network(), Run(folder=tmp_path, name="mean", steps=3, seed=0)
    with pytest.raises(FloatingPointError, match="mean, step 1: loss is not a number"):
        run.train(lambda index: {"loss": float("nan") if index else 1.0}, {"network": network}, 0)
    assert run.completed_steps() == 1


def test_training_lowers_the_error(tmp_path: Path) -> None:
    network = make_network()
    before = float(error(network, 99, 64).detach())
    network.load_state_dict(train(tmp_path))
    assert float(error(network, 99, 64).detach()) < 0.5 * before


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    update = orthogonalize(matrix)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((update * (left @ right)).sum()) > 0.9 * min(shape) ** 0.5 * float(update.norm())


def test_matrices_of_a_batch_have_the_updates_of_their_own() -> None:
    generator = torch.Generator().manual_seed(2)
    flat = torch.randn(12, 1, generator=generator) @ torch.randn(1, 5, generator=generator)
    matrices = [flat, torch.zeros(12, 5), torch.randn(12, 5, generator=generator)]
    together = orthogonalize(torch.stack(matrices))
    assert bool(together.isfinite().all())
    for matrix, update in zip(matrices, together, strict=True):
        torch.testing.assert_close(update, orthogonalize(matrix), rtol=0.05, atol=0.02)
