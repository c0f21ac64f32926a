"""Conversion: equal to the original in any precision, from any place, complete or not there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import OutputFile, plan_output, write_output
from hallo3.checkpoints.load import read_config
from hallo3.checkpoints.locate import PLACES
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.verify import verify_file
from hallo3.cli import convert as cli_convert
from hallo3.cli.main import main
from hallo3.cli.progress import file_verifier
from hallo3.config import COMPONENTS
from hallo3.errors import CheckpointError, OutputError
from hallo3.quantization import PRECISIONS
from support import original_checkpoints as checkpoints
from support.original_checkpoints import to_ours

CONFIG = checkpoints.NANO
Release = tuple[Path, dict[str, Tensor]]
PARTS = {
    "transformer": (maps.TRANSFORMER, maps.TRANSFORMER_PREFIX),
    "reference": (maps.REFERENCE, maps.REFERENCE_PREFIX),
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    return folder, checkpoints.write_release(folder, checkpoints.SMALL)


def original(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    keys, prefix = PARTS[part]
    return to_ours(keys, {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_converted_is_original(tmp_path: Path, release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    folder, state = release
    manifest = json.loads((Path(__file__).parents[1] / "data" / "checkpoint_manifest.json").read_text())
    assert set(state) == set(manifest["module"])
    assert main(["convert", str(folder), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "dropped: 2 (model.diffusion_model.mixins.pos_embed.freqs_" in out
    for part in PARTS:
        path, wanted = tmp_path / f"{part}.safetensors", original(state, part)
        found = load_file(path)
        assert found.keys() == wanted.keys()
        assert equal(found, wanted)
        header = read_config(path)
        assert (header["part"], header["precision"], len(header["dropped"])) == (part, "bf16", 3)
        assert len(header["source"]["mp_rank_00_model_states.pt"]) == 64
    assert {path.stem for path in tmp_path.iterdir()} == {"transformer", "reference", "vae"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(["convert", str(folder), str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert "already there" in capsys.readouterr().out


def test_a_converted_file(tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """It converts to itself and is not verified again."""
    monkeypatch.setattr("hallo3.storage.files.home", lambda: tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["convert", str(release[0]), str(first), "--part", "transformer"]) == 0
    with open_source(first / "transformer.safetensors") as source:
        digest = verify_file(source.files[0])
        monkeypatch.setattr("hallo3.checkpoints.verify.verify_file", None)
        assert file_verifier().get_hash(source.files[0]) == digest
    assert main(["convert", str(first), str(second)]) == 0
    again, once = (load_file(folder / "transformer.safetensors") for folder in (second, first))
    assert again.keys() == once.keys()
    assert equal(again, once)
    assert main(["convert", str(first), str(first)]) == 2


def test_scaled_fp8_is_as_near_as_fp8_can_be(tmp_path: Path, release: Release) -> None:
    """Within half the distance between neighbouring e4m3 numbers."""
    folder, state = release
    assert main(["convert", str(folder), str(tmp_path), "--dtype", "fp8", "--part", "transformer"]) == 0
    found, wanted = load_file(tmp_path / "transformer.safetensors"), original(state, "transformer")
    eight = [name for name, tensor in found.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(eight) == 42 * (4 + 4 + 4 + 2)
    for name in eight:
        scale = found[name + "_scale"]
        value, stored = wanted[name].float(), found[name].float()
        assert torch.linalg.norm(stored * scale - value) / torch.linalg.norm(value) <= 3e-2
        half_a_step = 2.0 ** (torch.floor(torch.log2((value / scale).abs().clamp(min=2.0**-6))) - 4)
        assert bool(((stored - value / scale).abs() <= half_a_step * 1.0001).all())
        note = json.loads(bytes(found[name.removesuffix("weight") + "comfy_quant"].tolist()))
        assert note == {"format": "float8_e4m3fn"}
    assert equal(found, {name: tensor for name, tensor in wanted.items() if name not in eight})


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_other_precisions_are_a_cast(tmp_path: Path, release: Release, dtype: str) -> None:
    folder, state = release
    assert main(["convert", str(folder), str(tmp_path), "--dtype", dtype, "--part", "reference"]) == 0
    wanted = {name: t.to(PRECISIONS[dtype].compute) for name, t in original(state, "reference").items()}
    assert equal(load_file(tmp_path / "reference.safetensors"), wanted)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[OutputFile]:
    path = tmp_path / "source" / "mp_rank_00_model_states.pt"
    checkpoints.write_checkpoint(path, CONFIG)
    with open_source(path) as source:
        yield plan_output(find_component(source, "transformer"), PRECISIONS["bf16"], {"a": 1})


@pytest.mark.parametrize("blocks", [0, 1, 40])
def test_a_stopped_run_leaves_the_earlier_file(tmp_path: Path, output: OutputFile, blocks: int) -> None:
    """The next one replaces it."""
    target, left = tmp_path / "out" / "a.safetensors", iter(range(blocks))
    target.parent.mkdir()
    target.write_bytes(b"earlier")

    def progress(_count: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(output, target, progress)
    assert target.read_bytes() == b"earlier"
    done: list[int] = []
    write_output(output, target, done.append)
    assert target.read_bytes() == b"".join(output.blocks())
    assert sum(done) == output.size
    assert [path.name for path in target.parent.iterdir()] == ["a.safetensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.source import open_source
from hallo3.quantization import PRECISIONS
left = iter(range(20))
with open_source(Path(sys.argv[1])) as source:
    output = plan_output(find_component(source, "transformer"), PRECISIONS["bf16"], {})
    write_output(output, Path(sys.argv[2]), lambda _: next(left, None) is None and os.kill(os.getpid(), 9))
"""


def test_a_killed_run_leaves_no_half_file_and_no_lock(tmp_path: Path, output: OutputFile) -> None:
    source, target = tmp_path / "source" / "mp_rank_00_model_states.pt", tmp_path / "out" / "a.safetensors"
    words = [sys.executable, "-c", KILLED, str(source), str(target)]
    assert subprocess.run(words, check=False, cwd=Path(__file__).parents[2]).returncode != 0
    assert not target.exists()
    write_output(output, target)
    assert target.read_bytes() == b"".join(output.blocks())


def test_a_second_run_does_not_write_the_same_file(tmp_path: Path, output: OutputFile) -> None:
    target = tmp_path / "out" / "a.safetensors"

    def run_again(_count: int) -> None:
        with pytest.raises(OutputError, match=r"Another run is working on a\.safetensors"):
            write_output(output, target)

    write_output(output, target, run_again)
    assert target.read_bytes() == b"".join(output.blocks())


def test_a_full_disk(tmp_path: Path, output: OutputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error before anything is written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(OutputError, match="not enough room"):
        write_output(output, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_conversion_that_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, size = ["convert", str(nano_folder), str(tmp_path / "out")], 0
    for path in nano_folder.glob("*.safetensors"):
        with open_source(path) as source:
            numbers = sum(entry.numel for entry in source.entries.values())
            size += numbers * (4 if path.stem == "speech_encoder" else 2)
    for free, code in ((size - 1, 1), (size, 0)):
        monkeypatch.setattr(cli_convert, "free_disk", lambda _, free=free: free)
        assert main(command) == code
        assert ("do not fit on the disk" in capsys.readouterr().err) == (code == 1)
        assert (tmp_path / "out").exists() == (code == 0)


@pytest.mark.parametrize(("part", "pattern"), [(part, each) for part in COMPONENTS for each in PLACES[part]])
def test_a_component_in_any_place(tmp_path: Path, nano_folder: Path, part: str, pattern: str) -> None:
    """It is converted wherever a model folder finds it."""
    place = pattern.replace("*", "1")
    place = place if place.endswith((".safetensors", ".pt")) else f"{place}/model.safetensors"
    path = tmp_path / "source" / place
    path.parent.mkdir(parents=True)
    shutil.copyfile(nano_folder / f"{part}.safetensors", path)
    options = ["--part", part] if place.endswith(".pt") else []  # one checkpoint is for two components
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "out"), *options]) == 0
    converted = tmp_path / "out" / f"{part}.safetensors"
    assert load_file(converted).keys() == load_file(path).keys()


def test_a_value_too_large_for_half_precision_is_named(tmp_path: Path) -> None:
    path, state = tmp_path / "reference.safetensors", original(checkpoints.module(CONFIG), "reference")
    state["proj_out.bias"][0] = 1e5
    header = {"hallo3": json.dumps({"part": "reference", "config": checkpoints.to_dict(CONFIG)})}
    save_file(state, path, header)
    with open_source(path) as source:
        planned = plan_output(find_component(source, "reference"), PRECISIONS["fp16"], {})
        with pytest.raises(CheckpointError, match=r"9.98e\+04 in proj_out\.bias"):
            write_output(planned, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
