"""Weights files in ComfyUI's model folders: offered, loaded, or refused; and the report of the doctor."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comfyui.client import node, saved_file, simple
from comfyui.server import Server
from comfyui.stages import Stages
from contract.frozen import frames_of as read_frames
from hallo3.built_in import FOLDER
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.load import read_state
from hallo3.cli.main import main
from hallo3.config import BUILT_IN, to_dict
from support import hostile_files as hostile
from support.original_checkpoints import to_original

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def folder(server: Server) -> Path:
    """The server's diffusion models: the built-in model's as files, a damaged one, and something else."""
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("transformer", "reference"):
        whole = (FOLDER / f"{part}.safetensors").read_bytes()
        (folder / f"{part}.safetensors").write_bytes(whole)
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"conv_in.weight": torch.zeros(4, 4)}, folder / "another.safetensors")
    (folder / "old.ckpt").write_bytes(b"pickle")
    hostile_file = hostile.archive(hostile.by_name("posix", "system", f"touch {folder / hostile.MARK}"))
    (folder / "hostile.pt").write_bytes(hostile_file)
    write_original(folder / "original.pt")
    return folder


def write_original(path: Path) -> None:
    """The built-in model as the original would publish it: both networks in one checkpoint."""
    module: dict[str, torch.Tensor] = {}
    trunk = "transformer", maps.TRANSFORMER, maps.TRANSFORMER_PREFIX
    for part, keys, prefix in (trunk, ("reference", maps.REFERENCE, maps.REFERENCE_PREFIX)):
        state = read_state(FOLDER / f"{part}.safetensors", torch.float32)
        module |= {prefix + name: tensor for name, tensor in to_original(keys, state).items()}
    torch.save({"module": module, "args": Namespace(lr=1)}, path)
    path.with_suffix(".json").write_text(json.dumps(to_dict(BUILT_IN)))


def with_files(transformer: str, reference: str) -> dict[str, Any]:
    return simple(
        model=node("Hallo3LoadModel", model_name=transformer, weight_dtype="default"),
        reference=node("Hallo3LoadReferenceNetwork", reference_network_name=reference),
        identity__reference_network=["reference", 0],
        extrapolate__model=["model", 0],
        extrapolate__steps=1,
    )


def frames_of(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    return read_frames(saved_file(server, server.run(prompt))).astype(np.int16)


def test_files_are_offered_when_they_appear_and_only_safe_ones_and_the_doctor_reports(server: Server) -> None:
    info = server.get("/object_info/Hallo3LoadModel")["Hallo3LoadModel"]["input"]["required"]
    offered = info["model_name"][1]["options"]
    assert offered[0] == "built-in"
    assert "transformer.safetensors" in offered
    assert "old.ckpt" not in offered
    text = server.run({"doctor": node("Hallo3Doctor")})["outputs"]["doctor"]["text"][0]
    assert "MISSING  vae: CogVideoX's 3D VAE" in text
    assert "ok       transformer" in text
    assert "--low-memory" not in text


def test_files_of_the_built_in_model_give_its_video(server: Server) -> None:
    """Up to rounding, which depends on the weights' memory alignment."""
    built_in = frames_of(server, simple(extrapolate__steps=1))
    assert len(built_in) == 163
    for files in (("transformer.safetensors", "reference.safetensors"), ("original.pt", "original.pt")):
        assert float(np.abs(frames_of(server, with_files(*files)) - built_in).mean()) < 0.5
    another = frames_of(server, simple(extrapolate__steps=1, extrapolate__seed=1))
    assert float(np.abs(another - built_in).mean()) > 2


def test_a_converted_fp8_file_is_one_of_comfyuis_quantised_models(stages: Stages, tmp_path: Path) -> None:
    assert main(["convert", str(FOLDER), str(tmp_path), "--dtype", "fp8", "--part", "transformer"]) == 0
    model = stages.module("nodes.comfy.loading").load_model(tmp_path / "transformer.safetensors")
    assert 0 < stages.deviation(model) < 0.2


@pytest.mark.parametrize(
    ("transformer", "headline"),
    [
        ("hostile.pt", "The file asks for something to be run"),
        ("cut.safetensors", "The file is incomplete"),
        ("another.safetensors", "This file holds another part of the model, or another model"),
        ("reference.safetensors", "This file holds another part of the model, or another model"),
    ],
)
def test_other_files_are_refused(server: Server, transformer: str, headline: str) -> None:
    message = server.error(with_files(transformer, "reference.safetensors"))
    assert headline in message
    assert "Fix:" in message
    assert not (server.base / "models" / "diffusion_models" / hostile.MARK).exists()


@pytest.mark.parametrize("naming", ["the original's", "ComfyUI's"])
def test_weights_in_other_names_and_half_precision(stages: Stages, tmp_path: Path, naming: str) -> None:
    """The original's names, or ours behind the prefix with which ComfyUI saves a MODEL."""
    state = read_state(FOLDER / "transformer.safetensors", torch.float32)
    theirs = to_original(maps.TRANSFORMER, state) if naming == "the original's" else state
    named = {maps.TRANSFORMER_PREFIX + name: t.bfloat16().contiguous() for name, t in theirs.items()}
    config = stages.module("hallo3.config").to_dict(stages.model.model.config)
    header = {"hallo3": json.dumps({"part": "transformer", "config": config})}
    save_file(named, tmp_path / "theirs.safetensors", metadata=header)
    model = stages.module("nodes.comfy.loading").load_model(tmp_path / "theirs.safetensors")
    assert 0 < stages.deviation(model) < 0.05
