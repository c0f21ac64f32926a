"""Every precision loads from every file, and what a file holds in eight bits already stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli.main import main
from hallo3.loading import load_models
from hallo3.model.conditions import Conditions
from hallo3.model.transformer import Hallo3Transformer
from hallo3.quantization.linear import EightBitLinear
from hallo3.quantization.precision import PRECISIONS
from support import original_checkpoints as checkpoints

CPU, NANO = torch.device("cpu"), checkpoints.NANO
HELD = ("fp8", "fp8-products", "int8")
KEY = "transformer_blocks.1.ff.net.2.weight"


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Path:
    """The random set, its large networks converted to fp8."""
    folder = tmp_path_factory.mktemp("fp8")
    assert main(["convert", str(nano_folder), str(folder), "--dtype", "fp8"]) == 0
    return folder


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights that a precision has in effect, in float32."""
    found: dict[str, Tensor] = {}
    with load_models(folder, CPU, name).transformer as network:
        for place, module in cast("list[tuple[str, nn.Module]]", list(network.named_modules())):
            if isinstance(module, EightBitLinear):
                found[f"{place}.weight"] = module.dense(torch.empty(0))[0]
            elif isinstance(module, nn.Linear):
                found[f"{place}.weight"] = module.weight.float()
    return found


@pytest.mark.parametrize("name", [*HELD, "bf16"])
def test_fp8_files_load_in_every_precision(eight: Path, name: str) -> None:
    """One rounding from what the file stands for; those that hold e4m3 hold just that."""
    stored, found = weights(eight, "fp32"), weights(eight, name)
    assert stored.keys() == found.keys()
    held = PRECISIONS["fp8"].held
    for key, wanted in stored.items():
        if name in ("fp8", "fp8-products") and held(key):
            assert torch.equal(found[key], wanted), key
        elif name == "int8" and held(key):
            step = wanted.abs().amax(1, keepdim=True) / 127
            assert bool(((found[key] - wanted).abs() <= step * 0.5001).all()), key
        else:
            assert torch.equal(found[key], wanted.to(torch.bfloat16).float()), key


@pytest.mark.parametrize("name", HELD)
def test_only_matrices_of_blocks_are_rounded(nano_folder: Path, name: str) -> None:
    state = read_component(ModelFolder(nano_folder).transformer, "transformer", PRECISIONS[name])
    exact = read_component(ModelFolder(nano_folder).transformer, "transformer", PRECISIONS["bf16"])
    holding = PRECISIONS[name].held_as
    assert holding is not None
    for key, tensor in exact.items():
        if PRECISIONS[name].held(key):
            assert state[key].dtype == holding.number
            scale = state[f"{key}_scale"]
            assert scale.shape == ((len(tensor),) if name != "fp8" else ())
        else:
            assert torch.equal(state[key], tensor)


def test_whole_numbers_in_a_file_are_held_as_they_are(tmp_path: Path, nano_folder: Path) -> None:
    state = load_file(ModelFolder(nano_folder).transformer)
    numbers = torch.randint(-127, 128, state[KEY].shape, dtype=torch.int8)
    for scale in (torch.rand(len(numbers), 1) + 0.1, torch.tensor(0.5)):
        save_file({**state, KEY: numbers, f"{KEY}_scale": scale}, tmp_path / "a.safetensors")
        found = read_component(tmp_path / "a.safetensors", "transformer", PRECISIONS["int8"])
        assert torch.equal(found[KEY], numbers)
        assert torch.equal(found[f"{KEY}_scale"], scale.flatten().expand(len(numbers)))


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("offload", ["blocks", "disk"])
@pytest.mark.parametrize("stored", ["fp32", "fp8"])
def test_scales_travel_with_their_blocks(
    nano_folder: Path, eight: Path, name: str, offload: str, stored: str
) -> None:
    folder = eight if stored == "fp8" else nano_folder
    found = [velocity(folder, name, where) for where in ("none", offload, offload)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(("name", "least", "most"), [("fp8-products", 0.004, 0.1), ("int8", 0.002, 0.05)])
def test_a_forward_is_near_the_exact_one(nano_folder: Path, name: str, least: float, most: float) -> None:
    exact = velocity(nano_folder, "fp32", "none")
    off = torch.linalg.norm(velocity(nano_folder, name, "none") - exact) / torch.linalg.norm(exact)
    assert least < float(off) < most


@torch.inference_mode()
def velocity(folder: Path, name: str, offload: str) -> Tensor:
    drawn, dtype = torch.Generator().manual_seed(5), PRECISIONS[name].compute
    shape, trunk = NANO.segment.shape.latent, NANO.trunk

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=drawn).to(dtype)

    with load_models(folder, CPU, name, offload=offload).transformer as network:
        assert isinstance(network, Hallo3Transformer)
        features = [draw(1, shape.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
        windows = draw(1, NANO.segment.frames, 5, NANO.audio.layers, NANO.audio.channels)
        heard: Conditions = network.conditions(features, draw(1, 48), draw(1, 8, 16), windows)
        latents = draw(2, 1, 16, *shape)
        modulation = network.modulate(torch.tensor([500]), latents)
        return network(latents[0], latents[1], modulation, heard).float()
