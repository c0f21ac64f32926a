"""Every precision loads from every file; fp8 weights of a file stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli.main import main
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.model.conditions import Conditions
from hallo3.model.transformer import Hallo3Transformer
from hallo3.quantization import precision
from hallo3.quantization.fp8 import FP8, FP8Linear
from hallo3.quantization.precision import PRECISIONS, check_device, get_precision, supports_fp8
from support import original_checkpoints as checkpoints

CPU, NANO = torch.device("cpu"), checkpoints.NANO
MPS = torch.device("mps")


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Path:
    """The random set, its large networks converted to fp8."""
    folder = tmp_path_factory.mktemp("fp8")
    assert main(["convert", str(nano_folder), str(folder), "--dtype", "fp8"]) == 0
    return folder


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights of a precision, scaled back to float32."""
    found: dict[str, Tensor] = {}
    with load_models(folder, CPU, name).transformer as network:
        for place, module in cast("list[tuple[str, nn.Module]]", list(network.named_modules())):
            if isinstance(module, FP8Linear):
                found[f"{place}.weight"] = module.dense(torch.empty(0))[0]
            elif isinstance(module, nn.Linear):
                found[f"{place}.weight"] = module.weight.float()
    return found


@pytest.mark.parametrize("name", ["fp8", "bf16"])
def test_fp8_files_load_in_other_precisions(eight: Path, name: str) -> None:
    stored, found = weights(eight, "fp32"), weights(eight, name)
    assert stored.keys() == found.keys()
    for key, wanted in stored.items():
        exact = PRECISIONS[name].is_fp8(key)
        assert torch.equal(found[key], wanted if exact else wanted.to(torch.bfloat16).float()), key


def test_only_matrices_of_blocks_are_fp8(nano_folder: Path) -> None:
    state = read_component(ModelFolder(nano_folder).find("transformer"), "transformer", PRECISIONS["fp8"])
    exact = read_component(ModelFolder(nano_folder).find("transformer"), "transformer", PRECISIONS["bf16"])
    for key, tensor in exact.items():
        if PRECISIONS["fp8"].is_fp8(key):
            assert state[key].dtype == FP8
            assert state[f"{key}_scale"].shape == ()
        else:
            assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("offload", ["blocks", "disk"])
@pytest.mark.parametrize("stored", ["fp32", "fp8"])
def test_scales_are_streamed_with_their_blocks(
    nano_folder: Path, eight: Path, offload: str, stored: str
) -> None:
    folder = eight if stored == "fp8" else nano_folder
    found = [velocity(folder, where) for where in ("none", offload, offload)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["int8", "fp8-products", "fp4"])
def test_unknown_precisions_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="Unknown precision") as raised:
        get_precision(name)
    assert "fp8" in raised.value.expected


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_device_without_e4m3_holds_no_fp8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no e4m3 on MPS in many versions."""

    def anywhere_but_mps(device: torch.device) -> bool:
        return device.type != "mps"

    monkeypatch.setattr(precision, "supports_fp8", anywhere_but_mps)
    check_device(PRECISIONS[name], CPU)
    check_device(PRECISIONS[name], torch.device("cuda"))
    if name != "fp8":
        check_device(PRECISIONS[name], MPS)
        return
    with pytest.raises(InputError, match="cannot hold fp8") as raised:
        check_device(PRECISIONS[name], MPS)
    assert raised.value.fix == "use bf16"


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        (1.0, True),
        (0.0, False),
        (TypeError("Trying to convert Float8_e4m3fn to the MPS backend"), False),
        (RuntimeError("PyTorch is not linked with support for mps devices"), False),
        (RuntimeError("MPS backend out of memory"), None),
    ],
)
def test_fp8_is_tried_with_one_number(
    answer: Exception | float, supported: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.Tensor.to

    def to(self: Tensor, *args: Any, **more: Any) -> Tensor:
        if args[:1] != (MPS,):
            return real(self, *args, **more)
        assert self.dtype == FP8
        if isinstance(answer, Exception):
            raise answer
        return torch.full((1,), answer)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert supports_fp8(CPU)
    if supported is None:
        with pytest.raises(RuntimeError, match="out of memory"):
            supports_fp8(MPS)
    else:
        assert supports_fp8(MPS) is supported


@torch.inference_mode()
def velocity(folder: Path, offload: str) -> Tensor:
    drawn, dtype = torch.Generator().manual_seed(5), torch.bfloat16
    shape, trunk = NANO.segment.shape.latent, NANO.trunk

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=drawn).to(dtype)

    with load_models(folder, CPU, "fp8", offload=offload).transformer as network:
        assert isinstance(network, Hallo3Transformer)
        features = [draw(1, shape.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
        windows = draw(1, NANO.segment.frames, 5, NANO.audio.layers, NANO.audio.channels)
        heard: Conditions = network.conditions(features, draw(1, 48), draw(1, 8, 16), windows)
        latents = draw(2, 1, 16, *shape)
        modulation = network.modulate(torch.tensor([500]), latents)
        return network(latents[0], latents[1], modulation, heard).float()
