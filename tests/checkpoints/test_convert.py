"""Conversion: equal to the original, at any precision, resumed after any stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.load import read_config
from hallo3.checkpoints.source import open_source
from hallo3.cli.main import main
from hallo3.errors import CheckpointError
from hallo3.quantization.precision import PRECISIONS
from support import original_checkpoints as checkpoints

CONFIG = checkpoints.NANO


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("release")
    return folder, checkpoints.write_release(folder, checkpoints.SMALL)


def originals(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    pairs = {
        "transformer": (maps.TRANSFORMER, maps.TRANSFORMER_PREFIX),
        "reference": (maps.REFERENCE, maps.REFERENCE_PREFIX),
    }
    return {
        part: keys.to_ours({k.removeprefix(p): t for k, t in state.items() if k.startswith(p)})
        for part, (keys, p) in pairs.items()
    }


def test_every_name_of_the_release_is_there(release: tuple[Path, dict[str, Tensor]]) -> None:
    manifest = json.loads((Path(__file__).parents[1] / "data" / "checkpoint_manifest.json").read_text())
    assert set(release[1]) == set(manifest["module"])
    assert len(release[1]) == 2238


def test_converted_equals_original_bit_for_bit(
    tmp_path: Path, release: tuple[Path, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state = release
    assert main(["convert", str(folder), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "left out: 2 (model.diffusion_model.mixins.pos_embed.freqs_" in out
    for part, wanted in originals(state).items():
        path = tmp_path / f"{part}.safetensors"
        found = load_file(path)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
        said = read_config(path)
        assert said["part"] == part
        assert said["precision"] == "bf16"
        assert len(said["source"]["mp_rank_00_model_states.pt"]) == 64
        assert len(said["dropped"]) == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "transformer.safetensors",
        "reference.safetensors",
        "vae.safetensors",
    }
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(["convert", str(folder), str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert "already there" in capsys.readouterr().out


def test_a_converted_file_converts_to_itself(tmp_path: Path, release: tuple[Path, dict[str, Tensor]]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["convert", str(release[0]), str(first), "--part", "transformer"]) == 0
    assert main(["convert", str(first), str(second)]) == 0
    again, once = (load_file(folder / "transformer.safetensors") for folder in (second, first))
    assert again.keys() == once.keys()
    assert all(torch.equal(again[name], once[name]) for name in once)
    assert main(["convert", str(first), str(first)]) == 2


def half_a_step(values: Tensor) -> Tensor:
    """Half the distance between neighbouring e4m3 numbers around these."""
    exponent = torch.floor(torch.log2(values.abs().clamp(min=2.0**-6)))
    return 2.0 ** (exponent - 4)


def test_scaled_fp8_is_as_near_as_fp8_can_be(tmp_path: Path, release: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = release
    assert main(["convert", str(folder), str(tmp_path), "--dtype", "fp8", "--part", "transformer"]) == 0
    found, wanted = load_file(tmp_path / "transformer.safetensors"), originals(state)["transformer"]
    eight = [name for name, tensor in found.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(eight) == 42 * (4 + 4 + 4 + 2)
    for name in eight:
        scale = found[name + "_scale"]
        value, held = wanted[name].float(), found[name].float()
        assert torch.linalg.norm(held * scale - value) / torch.linalg.norm(value) <= 3e-2
        assert bool(((held - value / scale).abs() <= half_a_step(value / scale) * 1.0001).all())
        note = json.loads(bytes(found[name.removesuffix("weight") + "comfy_quant"].tolist()))
        assert note == {"format": "float8_e4m3fn"}
    others = {name for name in wanted if name not in eight}
    assert all(torch.equal(found[name], wanted[name]) for name in others)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_other_precisions_are_a_cast(
    tmp_path: Path, release: tuple[Path, dict[str, Tensor]], dtype: str
) -> None:
    folder, state = release
    assert main(["convert", str(folder), str(tmp_path), "--dtype", dtype, "--part", "reference"]) == 0
    found, wanted = load_file(tmp_path / "reference.safetensors"), originals(state)["reference"]
    assert all(torch.equal(found[name], t.to(PRECISIONS[dtype].compute)) for name, t in wanted.items())


def test_a_value_too_large_for_half_precision_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    state = originals(checkpoints.module(CONFIG))["reference"]
    state["proj_out.bias"][0] = 1e5
    header = {"hallo3": json.dumps({"part": "reference", "config": checkpoints.to_dict(CONFIG)})}
    save_file(state, path, header)
    with open_source(path) as source:
        made = plan_output(find_component(source, "reference"), PRECISIONS["fp16"], {})
        with pytest.raises(CheckpointError, match=r"9.98e\+04 in proj_out\.bias"):
            write_output(made, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
