"""Blocks that come when they are needed compute what blocks that are there compute."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallo3.checkpoints.locate import ModelFolder
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.offload.streaming import Packed, StreamableModule, StreamedModule, WeightGroup, in_memory, leaves
from hallo3.offload.weight_store import choose_resident, text_in_memory
from hallo3.pipeline import animate
from hallo3.quantization.precision import PRECISIONS
from hallo3.settings import Settings
from hallo3.text_encoder import TextEncoder

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


def rows(net: nn.Module, blocks: int) -> list[list[WeightGroup]]:
    return [[tuple(leaves(net, f"blocks.{n}")) for n in range(blocks)]]


class Seen:
    """A shelf that hands out copies, and knows how many of them are alive."""

    def __init__(self, stored: StreamableModule[Net]) -> None:
        self.stored = stored
        self._handed = list[weakref.ref[Any]]()
        self.most, self.fetched = 0, list[WeightGroup]()

    @property
    def alive(self) -> int:
        """Copies whose memory is still held."""
        gc.collect()
        return sum(handed() is not None for handed in self._handed)

    def __call__(self, item: WeightGroup) -> Mapping[str, Tensor]:
        kept = self.stored.shelf(item)
        assert not isinstance(kept, Packed)
        copies = {name: tensor.clone() for name, tensor in kept.items()}
        self._handed.append(weakref.ref(copies[f"{item[0]}.weight"].untyped_storage()))
        self.most = max(self.most, self.alive)
        self.fetched.append(item)
        return copies


@torch.inference_mode()
@pytest.mark.parametrize("staying", [0, 2, 5, 6])
def test_two_items_at_most_pass_by_at_a_time(staying: int) -> None:
    net, x = Net(6), torch.randn(3, 8)
    wanted = net(x)
    seen: Seen | None = None

    def load() -> StreamableModule[Net]:
        nonlocal seen
        blocks = rows(net, 6)
        seen = Seen(in_memory(net, blocks, staying=choose_resident(blocks[0], staying)))
        return seen.stored._replace(shelf=seen)

    streamed = StreamedModule(load, CPU)
    for _ in range(3):
        with streamed as network:
            assert torch.equal(network(x), wanted)
            assert torch.equal(network(x), wanted)
        assert all(parameter.numel() == 0 for parameter in net.blocks.parameters())
        assert seen is not None
        assert not seen.alive
    passing = 6 - staying
    assert staying <= seen.most <= staying + min(2, passing) + 1  # one more has just been read
    # each that stays comes once an entering, each that passes once a pass; one more may come in vain
    least = 3 * (staying + 2 * passing) - (3 if passing == 1 else 0)
    assert least <= len(seen.fetched) <= 3 * (staying + 2 * passing + (passing > 0))


@torch.inference_mode()
@pytest.mark.parametrize("where", ["fetch", "stop"])
def test_an_error_reaches_the_caller_and_leaves_nothing(where: str) -> None:
    net = Net(3)
    before = {thread.name for thread in threading.enumerate()}

    def load() -> StreamableModule[Net]:
        stored = in_memory(net, rows(net, 3))

        def shelf(item: WeightGroup) -> Mapping[str, Tensor] | Packed:
            if where == "fetch" and item[0].startswith("blocks.1"):
                raise OSError(f"{item[0]} is gone")
            return stored.shelf(item)

        return stored._replace(shelf=shelf)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if where == "stop":
        net.blocks[1].register_forward_hook(stop)
    with (
        pytest.raises(OSError if where == "fetch" else KeyboardInterrupt),
        StreamedModule(load, CPU) as network,
    ):
        network(torch.zeros(1, 8))
    assert all(parameter.numel() == 0 for parameter in net.blocks.parameters())
    assert {thread.name for thread in threading.enumerate()} == before
    assert not any(module._forward_pre_hooks for module in net.modules())


@torch.inference_mode()
@pytest.mark.parametrize("home", ["memory", "disk"])
def test_a_prompt_is_read_by_t5_in_halves_of_blocks_bit_for_bit(tiny_folder: Path, home: str) -> None:
    models = load_models(tiny_folder, CPU, "fp32")
    with models.text as whole:
        wanted = whole.encode("a woman with red hair", 32)
        tokenizer, t5 = whole.tokenizer, whole.t5
        if home == "memory":
            with StreamedModule(lambda: text_in_memory(t5), CPU) as streamed:
                assert torch.equal(
                    TextEncoder(tokenizer, streamed).encode("a woman with red hair", 32), wanted
                )
                assert not any(p.numel() for p in streamed.get_submodule("encoder.embed_tokens").parameters())
            return
    with load_models(tiny_folder, CPU, "fp32", offload="disk").text as encoder:
        assert torch.equal(encoder.encode("a woman with red hair", 32), wanted)
        there = sum(p.numel() > 0 for p in encoder.t5.parameters())
        assert there <= 1 + 2 * 4  # the last norm, and a half block or two


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
