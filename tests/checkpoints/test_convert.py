"""Conversion: equal to the original in any precision, from any place, complete or not there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.checkpoints import convert
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import OutputFile, plan_output, write_output
from hallo3.checkpoints.load import read_config
from hallo3.checkpoints.locate import PLACES
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.verify import verify_file
from hallo3.cli.main import main
from hallo3.cli.progress import file_verifier
from hallo3.config import COMPONENTS
from hallo3.errors import CheckpointError, OutputError
from hallo3.quantization import PRECISIONS
from support import original_checkpoints as checkpoints
from support.published_names import to_ours

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
        part: to_ours(keys, {k.removeprefix(p): t for k, t in state.items() if k.startswith(p)})
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
    assert "dropped: 2 (model.diffusion_model.mixins.pos_embed.freqs_" in out
    for part, wanted in originals(state).items():
        path = tmp_path / f"{part}.safetensors"
        found = load_file(path)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
        header = read_config(path)
        assert (header["part"], header["precision"], len(header["dropped"])) == (part, "bf16", 3)
        assert len(header["source"]["mp_rank_00_model_states.pt"]) == 64
    assert {path.stem for path in tmp_path.iterdir()} == {"transformer", "reference", "vae"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(["convert", str(folder), str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert "already there" in capsys.readouterr().out


def test_a_converted_file_converts_to_itself_and_is_not_verified_again(
    tmp_path: Path, release: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hallo3.cli.progress.home", lambda: tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["convert", str(release[0]), str(first), "--part", "transformer"]) == 0
    with open_source(first / "transformer.safetensors") as source:
        digest = verify_file(source.files[0])
        monkeypatch.setattr("hallo3.checkpoints.verify.verify_file", None)
        assert file_verifier().get_hash(source.files[0]) == digest
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
        value, stored = wanted[name].float(), found[name].float()
        assert torch.linalg.norm(stored * scale - value) / torch.linalg.norm(value) <= 3e-2
        assert bool(((stored - value / scale).abs() <= half_a_step(value / scale) * 1.0001).all())
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


@pytest.fixture
def output(tmp_path: Path) -> Iterator[OutputFile]:
    path = tmp_path / "source" / "mp_rank_00_model_states.pt"
    checkpoints.write_checkpoint(path, CONFIG)
    with open_source(path) as source:
        yield plan_output(find_component(source, "transformer"), PRECISIONS["bf16"], {"a": 1})


def stop_after(blocks: int) -> Callable[[int], None]:
    """Progress that stops the run."""
    left = iter(range(blocks))

    def progress(_count: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("blocks", [0, 1, 40])
def test_a_stopped_run_leaves_the_earlier_file_and_the_next_one_replaces_it(
    tmp_path: Path, output: OutputFile, blocks: int
) -> None:
    target = tmp_path / "out" / "a.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt):
        write_output(output, target, stop_after(blocks))
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


def test_a_full_disk_is_an_error_before_anything_is_written(
    tmp_path: Path, output: OutputFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _folder: usage(10, 0, 10))
    with pytest.raises(OutputError, match="not enough room"):
        write_output(output, tmp_path / "out.safetensors")


def places() -> Iterator[tuple[str, str]]:
    """Every place of every component, with a word for each star."""
    for part in COMPONENTS:
        for pattern in PLACES[part]:
            is_file = pattern.endswith((".safetensors", ".pt"))
            place = pattern.replace("*", "1")
            yield part, place if is_file else f"{place}/model.safetensors"


@pytest.mark.parametrize(("part", "place"), [*places()])
def test_a_component_is_converted_wherever_a_model_folder_finds_it(
    tmp_path: Path, nano_folder: Path, part: str, place: str
) -> None:
    path = tmp_path / "source" / place
    path.parent.mkdir(parents=True)
    shutil.copyfile(nano_folder / f"{part}.safetensors", path)
    options = ["--part", part] if place.endswith(".pt") else []  # one checkpoint is for two components
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "out"), *options]) == 0
    converted = tmp_path / "out" / f"{part}.safetensors"
    assert load_file(converted).keys() == load_file(path).keys()


def test_a_value_too_large_for_half_precision_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    state = originals(checkpoints.module(CONFIG))["reference"]
    state["proj_out.bias"][0] = 1e5
    header = {"hallo3": json.dumps({"part": "reference", "config": checkpoints.to_dict(CONFIG)})}
    save_file(state, path, header)
    with open_source(path) as source:
        planned = plan_output(find_component(source, "reference"), PRECISIONS["fp16"], {})
        with pytest.raises(CheckpointError, match=r"9.98e\+04 in proj_out\.bias"):
            write_output(planned, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
