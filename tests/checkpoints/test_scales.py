"""Scaled tensors keep their values whatever names they are stored under, and through every precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.load import check_file
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.verify import verify_file
from hallo3.config import to_dict
from hallo3.errors import CheckpointError
from hallo3.quantization.precision import PRECISIONS, fp8_scale
from support import original_checkpoints as checkpoints

CONFIG = checkpoints.NANO
SAT = "model.diffusion_model.transformer.layers.0.attention.query_key_value.weight"
ROWS = 3 * CONFIG.trunk.width


def written(folder: Path, state: dict[str, Tensor], precision: str) -> dict[str, Tensor]:
    path = folder / "mp.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(to_dict(CONFIG)))
    check_file(path, "transformer")
    with open_source(path) as source:
        write_output(
            plan_output(find_component(source, "transformer"), PRECISIONS[precision], {}), folder / "out"
        )
    return load_file(folder / "out")


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_scale_is_cut_with_its_tensor(
    tmp_path: Path, rows: int, stored: torch.dtype, precision: str
) -> None:
    state = dict(checkpoints.module(CONFIG))
    state[SAT] = torch.ones_like(state[SAT]).to(stored)
    scale = torch.arange(1, rows + 1).float().reshape(-1, 1) / 64
    state[f"{SAT}_scale"] = scale if rows > 1 else scale.reshape(())
    found = written(tmp_path, state, precision)
    for n, name in enumerate(("to_q", "to_k", "to_v")):
        key = f"transformer_blocks.0.attn1.{name}.weight"
        values = found[key].float() * found.get(f"{key}_scale", torch.ones(()))
        wanted = scale.expand(ROWS, 1)[n * ROWS // 3 : (n + 1) * ROWS // 3].expand_as(values)
        assert torch.allclose(values, wanted, rtol=0.07)


def test_a_scale_must_belong_to_a_tensor_and_fit_it(tmp_path: Path) -> None:
    for name, scale in ((f"{SAT}_scale", torch.ones(1, ROWS)), (f"{SAT}x.weight_scale", torch.ones(()))):
        state = dict(checkpoints.module(CONFIG))
        state[SAT] = torch.ones_like(state[SAT]).to(torch.float8_e4m3fn)
        with pytest.raises(CheckpointError, match="scale does not fit"):
            written(tmp_path, {**state, name: scale}, "bf16")


def test_whole_numbers_without_a_scale_are_refused(tmp_path: Path) -> None:
    state = dict(checkpoints.module(CONFIG))
    state[SAT] = torch.ones_like(state[SAT]).to(torch.int8)
    with pytest.raises(CheckpointError, match="whole numbers, without a scale"):
        written(tmp_path, state, "bf16")


def test_a_scaled_value_too_large_for_half_precision_is_refused(tmp_path: Path) -> None:
    state = dict(checkpoints.module(CONFIG))
    state[SAT] = torch.full(state[SAT].shape, 448.0).to(torch.float8_e4m3fn)
    state[f"{SAT}_scale"] = torch.tensor(1000.0)
    with pytest.raises(CheckpointError, match=r"4.48e\+05"):
        written(tmp_path, state, "fp16")


def test_the_smallest_matrix_has_a_scale() -> None:
    assert fp8_scale(torch.tensor(1e-44)) > 0
    assert fp8_scale(torch.tensor(0.0)) == 1


def test_shared_and_strided_tensors_are_looked_through(tmp_path: Path) -> None:
    x = torch.ones(10)
    x[9] = float("nan")
    grid = torch.ones(4, 4)
    grid[:, 3] = float("nan")
    cases = (
        ({"a": x[:6], "b": x[4:]}, False),
        ({"a": x[:6], "b": x[2:8]}, True),
        ({"a": grid[:, :2]}, True),
    )
    for state, good in cases:
        torch.save(state, tmp_path / "a.pt")
        with open_source(tmp_path / "a.pt") as source:
            if good:
                verify_file(source.files[0])
            else:
                with pytest.raises(CheckpointError, match="NaN or infinity in b"):
                    verify_file(source.files[0])


@pytest.mark.parametrize(
    "change",
    [
        {"trunk": {"layers": 200_000}},
        {"trunk": {"heads": 1 << 40}},
        {"trunk": {"text_dim": 1 << 62}},
        {"trunk": {"rope_theta": float("nan")}},
        {"vae": {"block_out_channels": []}},
        {"vae": {"block_out_channels": [1 << 61]}},
        {"vae": {"layers_per_block": 200_000}},
        {"vae": {"norm_num_groups": 7}},
    ],
)
def test_configurations_of_which_nothing_can_be_built_are_refused(
    tmp_path: Path, change: dict[str, dict[str, object]]
) -> None:
    config = to_dict(CONFIG)
    for key, value in change.items():
        config[key] |= value
    checkpoints.write_release(tmp_path, CONFIG)
    for path in tmp_path.rglob("*.pt"):
        path.with_suffix(".json").write_text(json.dumps(config))
    part = "vae" if "vae" in change else "transformer"
    with pytest.raises(CheckpointError):
        check_file(ModelFolder(tmp_path).find(part), part)
