"""Every precision loads from every file; fp8 weights of a file stay as they are."""

from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, call

import pytest
import torch
from torch import Tensor, nn

from conftest import speech_of
from hallo3 import quantization as precision
from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli.main import main
from hallo3.config import NANO, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.offload.sizes import measure_sizes
from hallo3.quantization import (
    FP8,
    PRECISIONS,
    FP8Linear,
    check_device,
    choose_device,
    choose_precision,
    get_precision,
    supports_fp8,
)
from support.messages import expect_message
from support.short_runs import video

CPU, MPS = torch.device("cpu"), torch.device("mps")


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Path:
    """The random set, its large networks converted to fp8."""
    folder = tmp_path_factory.mktemp("fp8")
    assert main(["convert", str(nano_folder), str(folder), "--dtype", "fp8"]) == 0
    return folder


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights of a precision, scaled back to float32."""
    loaded: dict[str, Tensor] = {}
    with load_models(folder, CPU, name).transformer as network:
        for place, module in cast("list[tuple[str, nn.Module]]", list(network.named_modules())):
            if isinstance(module, FP8Linear):
                loaded[f"{place}.weight"] = module.dense(torch.empty(0))[0]
            elif isinstance(module, nn.Linear):
                loaded[f"{place}.weight"] = module.weight.float()
    return loaded


@pytest.mark.parametrize("name", ["fp8", "bf16"])
def test_fp8_files_load_in_other_precisions(eight: Path, name: str) -> None:
    stored, loaded = weights(eight, "fp32"), weights(eight, name)
    assert stored.keys() == loaded.keys()
    for key, tensor in stored.items():
        exact = PRECISIONS[name].is_fp8(key)
        assert torch.equal(loaded[key], tensor if exact else tensor.to(torch.bfloat16).float()), key


def test_only_matrices_of_blocks_are_fp8(nano_folder: Path) -> None:
    path = ModelFolder(nano_folder).find("transformer")
    state, exact = (read_component(path, "transformer", PRECISIONS[name]) for name in ("fp8", "bf16"))
    for key, tensor in exact.items():
        if PRECISIONS["fp8"].is_fp8(key):
            assert state[key].dtype == FP8
            assert state[f"{key}_scale"].shape == ()
        else:
            assert torch.equal(state[key], tensor)


def test_scales_of_a_file_are_streamed_with_their_blocks(eight: Path, portrait: Tensor) -> None:
    loaded, *streamed = (
        video(portrait, speech_of(24000), load_models(eight, CPU, "fp8", offload=each))
        for each in ("none", "blocks", "disk")
    )
    assert all(torch.equal(loaded, each) for each in streamed)


def test_a_device_without_e4m3_holds_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no e4m3 on MPS in many versions."""
    with pytest.raises(InputError, match="Unknown precision") as raised:
        get_precision("int8")
    assert "fp8" in raised.value.expected
    monkeypatch.setattr(precision, "supports_fp8", lambda device: device.type != "mps")
    for name, device in product(PRECISIONS, (CPU, torch.device("cuda"), MPS)):
        if (name, device) != ("fp8", MPS):
            check_device(PRECISIONS[name], device)
    with pytest.raises(InputError, match="cannot hold fp8") as raised:
        check_device(PRECISIONS["fp8"], MPS)
    assert raised.value.fix == "use bf16"


def test_fp8_is_tried_with_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [torch.ones(1), torch.zeros(1), TypeError("Trying to convert Float8_e4m3fn to the MPS backend")]
    answers.append(RuntimeError("PyTorch is not linked with support for mps devices"))
    on_mps, real = Mock(side_effect=[*answers, RuntimeError("MPS backend out of memory")]), Tensor.to

    def to(self: Tensor, *args: Any, **more: Any) -> Tensor:
        return on_mps(self.dtype) if args[:1] == (MPS,) else real(self, *args, **more)

    monkeypatch.setattr(Tensor, "to", to)
    assert supports_fp8(CPU)
    assert [supports_fp8(MPS) for _ in answers] == [True, False, False, False]
    with pytest.raises(RuntimeError, match="out of memory"):
        supports_fp8(MPS)
    assert on_mps.call_args_list == [call(FP8)] * 5


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A machine with two GPUs that compute no bf16, and Apple's; its current GPU."""
    current = Mock()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    return current


def test_a_device_is_named_or_refused_with_what_is_here(machine: Mock) -> None:
    for name, wanted in {
        "auto": "cuda",
        "cuda": "cuda",
        "cuda:0": "cuda",
        "cuda:1": "cuda:1",
        "cpu": "cpu",
    }.items():
        assert choose_device(name) == torch.device(wanted)
    assert machine.call_args_list == [call(torch.device("cuda:1"))]
    with expect_message("mps is untried: --trial shows"):
        assert choose_device("mps") == MPS
    for name in ("cuda:2", "xpu", "tpu", "cuda:-1", "cuda:x", "mps:1", "meta", ""):
        with pytest.raises(InputError, match="cpu or cuda or cuda:1 or mps\n"):
            choose_device(name)


def test_without_a_gpu_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match="Expected: cpu\n"):
        choose_device("cuda")


@pytest.mark.usefixtures("machine")
def test_a_gpu_without_bf16_computes_in_fp16(nano_folder: Path) -> None:
    gpu = torch.device("cuda")
    for name, compute in {"auto": torch.float16, "fp8": torch.float16}.items():
        with expect_message("does not compute bf16.* T5 in fp32"):
            chosen = choose_precision(name, gpu)
        assert (chosen.compute, chosen.of_text.compute) == (compute, torch.float32)
        assert chosen.name == {"auto": "fp16"}.get(name, name), "of job keys"
    for name in PRECISIONS.keys() - {"fp8"}:
        assert choose_precision(name, gpu) is PRECISIONS[name], "as it was asked for"
    assert choose_precision("auto", CPU) is PRECISIONS["bf16"]
    with load_models(nano_folder, CPU, "fp16").text as text:
        assert text.encode("a face", 8).dtype == torch.float32
    configs = TEXT_ENCODERS["nano"], SPEECH_ENCODERS["nano"]
    half, full, brain = (measure_sizes(NANO, PRECISIONS[n], *configs) for n in ("fp16", "fp32", "bf16"))
    assert (half.text_encoder, half.transformer) == (full.text_encoder, brain.transformer)
