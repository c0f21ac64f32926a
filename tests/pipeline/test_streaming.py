"""Blocks that come when they are needed compute what blocks that are there compute."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hallo3.load import load_models
from hallo3.media.sound import Recording
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.settings import Settings
from hallo3.shelves import rows_of
from hallo3.streaming import Item, Stored, Streamed, in_memory, leaves
from hallo3.weights.places import ModelFolder
from hallo3.weights.precision import PRECISIONS

CPU = torch.device("cpu")
SETTINGS = Settings(steps=2, guidance_scale=3.5, sampler="dpmpp_2m_sde", motion_drop=0.1, seed=3)


def frames(models: Models, portrait: Tensor, speech: Recording) -> Tensor:
    made = animate(portrait, speech, "a man", models, SETTINGS)
    return torch.cat([segment.pixels for segment in made])


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
@pytest.mark.parametrize("offload", ["blocks", "disk"])
def test_a_streamed_model_makes_the_same_video(
    nano_folder: Path, portrait: Tensor, speech: Recording, offload: str, precision: str
) -> None:
    whole = load_models(nano_folder, CPU, PRECISIONS[precision])
    streamed = load_models(nano_folder, CPU, PRECISIONS[precision], offload=offload)
    assert torch.equal(frames(whole, portrait, speech), frames(streamed, portrait, speech))


class Net(nn.Module):
    """Blocks in a row, and one layer outside them."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def rows(net: Net) -> list[list[Item]]:
    return [[tuple(leaves(net, f"blocks.{n}")) for n in range(len(net.blocks))]]


@torch.inference_mode()
def test_two_items_at_most_are_there_at_a_time() -> None:
    net, x = Net(6), torch.randn(3, 8)
    wanted = net(x)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def load() -> Stored[Net]:
        stored = in_memory(net, rows(net))

        def shelf(item: Item) -> Mapping[str, Tensor]:
            nonlocal most
            copies = {name: tensor.clone() for name, tensor in stored.shelf(item).items()}
            gc.collect()
            alive.add(copies[f"{item[0]}.weight"])
            most = max(most, len(alive))
            return copies

        return stored._replace(shelf=shelf)

    streamed = Streamed(load, CPU)
    for _ in range(3):
        with streamed as network:
            assert torch.equal(network(x), wanted)
            assert torch.equal(network(x), wanted)
    assert 1 <= most <= 3  # the third is the one that has just been read
    assert all(parameter.numel() == 0 for parameter in net.blocks.parameters())


@torch.inference_mode()
def test_an_error_while_fetching_reaches_the_caller() -> None:
    net = Net(3)

    def load() -> Stored[Net]:
        def shelf(item: Item) -> Mapping[str, Tensor]:
            raise OSError(f"{item[0]} is gone")

        return in_memory(net, rows(net))._replace(shelf=shelf)

    with pytest.raises(OSError, match=r"blocks\.0"), Streamed(load, CPU) as network:
        network(torch.zeros(1, 8))


def test_modulation_and_audio_projection_come_apart_from_the_blocks(nano_folder: Path) -> None:
    with load_models(nano_folder, CPU, "fp32").transformer as network:
        blocks, modulations, once = rows_of(network)
    assert len(blocks) == len(modulations) == network.config.layers
    assert modulations[1] == ("transformer_blocks.1.norm1.linear", "transformer_blocks.1.norm2.linear")
    assert not any(layer.endswith("norm1.linear") for item in blocks for layer in item)
    assert all(layer.startswith("audio_proj.") for layer in once[0])


def test_a_file_that_changes_while_blocks_are_read_is_told(
    tmp_path: Path, nano_folder: Path, portrait: Tensor, speech: Recording
) -> None:
    import shutil

    from hallo3.errors import CheckpointError

    folder = tmp_path / "model"
    shutil.copytree(nano_folder, folder)
    models = load_models(folder, CPU, PRECISIONS["fp32"], offload="disk")
    run = animate(portrait, speech, "", models, SETTINGS)
    next(run)
    path = ModelFolder(folder).transformer
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        list(run)
