"""Weights files in ComfyUI's model folders: offered, loaded, or refused; and the report of the doctor."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.cpu import anonymous_bytes
from comfyui.client import node, saved_file, simple
from comfyui.server import Server
from comfyui.stages import Stages
from contract.frozen import frames_of as read_frames
from full_size.generate import Sizes, made_up_tensor, on_meta
from hallo3.built_in import FOLDER
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.load import build_on_meta, read_state, write_weights
from hallo3.cli.main import main
from hallo3.config import BUILT_IN, to_dict
from hallo3.progress import no_display
from support import hostile_files as hostile
from support.original_checkpoints import to_original
from support.own_process import ON_LINUX

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
    model = node("Hallo3LoadModel", model_name=transformer, weight_dtype="default")
    network = node("Hallo3LoadReferenceNetwork", reference_network_name=reference)
    sockets = {"identity__reference_network": ["reference", 0], "extrapolate__model": ["model", 0]}
    return simple(model=model, reference=network, extrapolate__steps=1, **sockets)


def frames_of(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    return read_frames(saved_file(server, server.run(prompt))).astype(np.int16)


def test_files_are_offered_when_they_appear_and_only_safe_ones_and_the_doctor_reports(server: Server) -> None:
    info = server.get("/object_info/Hallo3LoadModel")["Hallo3LoadModel"]["input"]["required"]
    first, *others = info["model_name"][1]["options"]
    assert first == "built-in"
    assert [name in others for name in ("transformer.safetensors", "old.ckpt")] == [True, False]
    text = server.run({"doctor": node("Hallo3Doctor")})["outputs"]["doctor"]["text"][0]
    told = ("MISSING  vae: CogVideoX's 3D VAE", "ok       transformer", "--low-memory")
    assert [part in text for part in told] == [True, True, False]


def test_files_of_the_built_in_model_give_its_video(server: Server) -> None:
    """Up to rounding, which depends on the weights' memory alignment."""
    built_in = frames_of(server, simple(extrapolate__steps=1))
    assert len(built_in) == 163
    for files in (("transformer.safetensors", "reference.safetensors"), ("original.pt", "original.pt")):
        assert float(np.abs(frames_of(server, with_files(*files)) - built_in).mean()) < 0.5
    another = frames_of(server, simple(extrapolate__steps=1, extrapolate__seed=1))
    assert float(np.abs(another - built_in).mean()) > 2


def test_a_converted_fp8_file_is_one_of_comfyuis_quantised_models(stages: Stages, tmp_path: Path) -> None:
    parts = ("--part", "transformer", "--part", "reference")
    assert main(["convert", str(FOLDER), str(tmp_path), "--dtype", "fp8", *parts]) == 0
    loading = stages.module("nodes.comfy.loading")
    assert 0 < stages.deviation(loading.load_model(tmp_path / "transformer.safetensors")) < 0.2
    reference = loading.load_reference_network(tmp_path / "reference.safetensors")
    features = stages.create_identity(reference_network=reference)[0].reference_features
    for found, wanted in zip(features, stages.identity.reference_features, strict=True):
        assert 0 <= float((found - wanted).std() / wanted.std()) < 0.1


@ON_LINUX
def test_the_reference_network_is_read_from_its_file_and_leaves(stages: Stages, tmp_path: Path) -> None:
    sizes, path = Sizes.scaled(0.1, (9, 96, 96)), tmp_path / "reference.safetensors"
    network = build_on_meta("reference", to_dict(sizes.model))
    state = {name: made_up_tensor(name, each) for name, each in on_meta(network, torch.bfloat16).items()}
    write_weights(path, state, {"part": "reference", "config": to_dict(sizes.model)})
    del state
    loading, latents = stages.module("nodes.comfy.loading"), torch.zeros(1, 16, 1, 12, 12)
    stages.create_identity()  # libraries are imported
    before = anonymous_bytes(os.getpid())
    features = loading.extract_features(loading.load_reference_network(path), latents)
    assert len(features) == 42
    assert path.stat().st_size > 100e6
    assert anonymous_bytes(os.getpid()) - before < path.stat().st_size / 2


def test_the_originals_form_is_checked_once(stages: Stages, folder: Path, monkeypatch: Any) -> None:
    """It is advised against."""
    loading, shown = stages.module("nodes.comfy.loading"), list[str]()

    def show(what: str, *_: int) -> Any:
        shown.append(what)
        return no_display()

    path = folder / "original.pt"
    monkeypatch.setattr(loading, "show_warning", show)
    monkeypatch.setattr(loading, "show_progress", show)
    for _ in range(2):
        loading.extract_features(loading.load_reference_network(path), torch.zeros(1, 16, 1, 8, 8))
    loading.load_model(path)
    again = ["original.pt", "reading"]
    assert [text.split()[0] for text in shown] == ["original.pt", "checking", "reading", *again, *again]
    assert f"/hallo3 convert {path} " in shown[0]
    assert (stages.host.base / ".cache" / "hallo3" / "examined.json").is_file()


def test_a_model_larger_than_memory_stays_in_its_file(stages: Stages, folder: Path, monkeypatch: Any) -> None:
    """Or it is refused, where it would have to be changed."""
    loading = stages.module("nodes.comfy.loading")
    monkeypatch.setattr(loading, "unused_bytes", lambda: 1_000_000)
    model = loading.load_model(folder / "transformer.safetensors")
    assert next(model.model.diffusion_model.parameters()).dtype == torch.float16  # as in the file
    assert stages.deviation(model) < 1e-5
    for name, dtype in (("original.pt", "default"), ("transformer.safetensors", "fp8_e4m3fn")):
        with pytest.raises(stages.errors.InputError, match=r"does not fit in memory(.|\n)*at most 950 kB"):
            loading.load_model(folder / name, dtype)


CUT, ANOTHER = "The file is incomplete", "This file holds another part of the model, or another model"
HEADLINES = {"another.safetensors": ANOTHER, "reference.safetensors": ANOTHER}
HEADLINES |= {"hostile.pt": "The file asks for something to be run", "cut.safetensors": CUT}


@pytest.mark.parametrize("name", HEADLINES)
def test_other_files_are_refused(server: Server, name: str) -> None:
    message = server.error(with_files(name, "reference.safetensors"))
    assert [part for part in (HEADLINES[name], "Fix:") if part not in message] == []
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
