"""The set of ``generate``, small: the release's names and shapes, and every command takes it."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from full_size.generate import WRITERS, Sizes, networks, text_encoder, vae, write_inputs
from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli.main import main
from hallo3.config import COMPONENTS
from hallo3.quantization import PRECISIONS

pytestmark = pytest.mark.any_message  # of face networks that are made up
MANIFEST = Path(__file__).parents[1] / "data" / "checkpoint_manifest.json"
SIZES = Sizes.scaled(0.05, (9, 64, 96))


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("download")
    for write in WRITERS.values():
        write(folder, SIZES)
    return folder


@pytest.fixture(scope="module")
def converted(download: Path) -> Path:
    assert main(["convert", str(download), str(download.parent / "converted")]) == 0
    return download.parent / "converted"


def test_names_and_shapes_are_the_released_ones() -> None:
    manifest = json.loads(MANIFEST.read_text())
    del manifest["text_encoder"]["encoder.embed_tokens.weight"]  # the same table as shared.weight
    found = {"module": networks(Sizes()), "vae": vae(Sizes()), "text_encoder": text_encoder(Sizes())}
    for part, state in found.items():
        assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest[part]
    small = networks(SIZES)
    assert small.keys() == manifest["module"].keys()
    assert sum(t.numel() for t in small.values()) < 0.02 * sum(t.numel() for t in found["module"].values())


def test_doctor_and_inspect_know_the_download(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(download)]) == 0
    assert "The model is complete." in capsys.readouterr().out
    assert main(["inspect", str(download / "hallo3/1/mp_rank_00_model_states.pt")]) == 0
    assert capsys.readouterr().out.count("complete\n") == 2


def test_torch_reads_the_checkpoint_as_it_reads_its_own(download: Path) -> None:
    """DeepSpeed's wrapping too; what torch refuses without trust, it refuses in the released file as well."""
    path = download / "hallo3/1/mp_rank_00_model_states.pt"
    whole = torch.load(path, mmap=True, weights_only=False)
    assert {"module", "param_shapes", "args", "torch_rng_state"} <= whole.keys()
    for name, tensor in networks(SIZES).items():
        assert whole["module"][name].shape == tensor.shape
        assert bool(whole["module"][name].isfinite().all())
        assert tensor.numel() < 2 or float(whole["module"][name].abs().max()) > 0


def test_converted_files_are_the_download(download: Path, converted: Path) -> None:
    for part in COMPONENTS:
        precision = PRECISIONS["fp32" if part == "speech_encoder" else "bf16"]
        wanted = read_component(ModelFolder(download).find(part), part, precision)
        found = load_file(converted / f"{part}.safetensors")
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("flags", [["--plan"], ["--offload", "disk"]], ids=["plan", "disk"])
def test_a_video_comes_out(download: Path, converted: Path, tmp_path: Path, flags: list[str]) -> None:
    portrait, speech = write_inputs(tmp_path, 0.2)
    words = [
        "--model",
        str(converted),
        "--faces",
        str(download / "face_analysis/models"),
        "--faces-unverified",
    ]
    words += ["--portrait", str(portrait), "--speech", str(speech), "--steps", "2", "--device", "cpu"]
    video = tmp_path / "v.mp4"
    assert main(["animate", *words, *flags, "-o", str(video)]) == 0
    if "--plan" in flags:
        assert not video.exists()
    else:
        with av.open(str(video)) as container:
            assert len(list(container.decode(video=0))) == 5
