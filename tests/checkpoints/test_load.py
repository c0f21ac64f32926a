"""Loading is strict; what is refused says what was found; a model folder opens each file once."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import speech_of
from hallo3.built_in import FOLDER
from hallo3.checkpoints.keymaps import REFERENCE_PREFIX, TRANSFORMER_PREFIX
from hallo3.checkpoints.load import (
    POSITIONS,
    load_strict,
    read_component,
    read_config,
    read_model_config,
    read_state,
    write_weights,
)
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import make_random_state, write_random_set
from hallo3.config import NANO, TINY, to_dict
from hallo3.errors import CheckpointError, FaceError, InputError, ShapeError
from hallo3.loading import load_models
from hallo3.model.layers import Layers
from hallo3.model.transformer import ReferenceNetwork
from hallo3.pipeline import encode_prompt
from hallo3.quantization import PRECISIONS
from support.original_checkpoints import write_release
from support.short_runs import video

CPU = torch.device("cpu")
SMALLER = replace(TINY.segment, frames=9, height=32, width=48)
"""A grid of 3 x 2 x 3 tokens out of 13 x 4 x 6."""


def network() -> tuple[nn.Module, dict[str, Tensor]]:
    built = ReferenceNetwork(NANO.trunk, NANO.segment.shape.latent, Layers(device="meta"))
    return built, make_random_state(built, "strict")


def test_a_complete_state_loads() -> None:
    built, state = network()
    load_strict(built, state, "a reference network")
    assert not built.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in built.parameters())


@pytest.mark.parametrize("fault", ["missing", "unknown", "another shape"])
def test_the_first_wrong_key_is_named(fault: str) -> None:
    built, state = network()
    key = f"transformer_blocks.0.attn1.{'extra' if fault == 'unknown' else 'to_q.weight'}"
    values = state.pop(key, torch.zeros(2))
    state |= {} if fault == "missing" else {key: values[:-1]}
    with pytest.raises(CheckpointError, match=f"1 keys.*{fault}.*{key}"):
        load_strict(built, state, "a reference network")


def test_what_stays_on_meta_is_refused() -> None:
    built, state = network()
    built.register_buffer("forgotten", torch.empty(1, device="meta"), persistent=False)
    with pytest.raises(CheckpointError, match="forgotten"):
        load_strict(built, state, "a reference network")


def test_a_file_holds_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    write_weights(path, {"a": torch.arange(3.0)}, {"part": "test", "config": {"x": 1}})
    assert read_config(path) == {"part": "test", "config": {"x": 1}}
    assert read_state(path, torch.bfloat16)["a"].dtype == torch.bfloat16
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        read_config(tmp_path / "absent.safetensors")


def write_changed(source: Path, target: Path, change: dict[str, Any]) -> None:
    """Write a file again with changes to its configuration."""
    header, state = read_config(source), load_file(source)
    for key, value in change.items():
        header["config"][key] = header["config"][key] | value if isinstance(value, dict) else value
    write_weights(target, state, header)


def test_impossible_configurations_are_refused(tmp_path: Path, nano_folder: Path) -> None:
    source = ModelFolder(nano_folder).find("transformer")
    for change, message in (
        ({"segment": {"frames": 18}}, "17 or 21"),
        ({"segment": {"height": 40}}, "32 or 48"),
        ({"trunk": {"heads": 0}}, "whole number from 1"),
        ({"trunk": {"head_dim": 24}}, "multiple of 16"),
        ({"trunk": {"unheard_of": 1}}, "unheard_of"),
        ({"name": 5}, "str"),
        ({"vae": 5}, "an object"),
    ):
        write_changed(source, tmp_path / source.name, change)
        with pytest.raises(InputError, match=message):
            read_model_config(ModelFolder(tmp_path).find("transformer"))


def test_files_that_do_not_fit_are_refused(tmp_path: Path, nano_folder: Path, tiny_folder: Path) -> None:
    """Files of another part or model, and what needs files that are not there."""
    reference, vae = ModelFolder(nano_folder).find("reference"), ModelFolder(tiny_folder).find("vae")
    face, tokenizer = {"face": {"space": "arcface-glintr100"}}, {"tokenizer": "syllables"}
    for part, other, change, error, message in (
        ("transformer", reference, {}, CheckpointError, r"another part.*\n.*transformer.safetensors"),
        ("vae", vae, {}, CheckpointError, "vae file belongs to another model"),
        ("transformer", None, face, FaceError, "arcface-glintr100"),
        ("text_encoder", None, tokenizer, CheckpointError, r"'syllables'\n.*t5 or words or bytes"),
    ):
        shutil.copytree(nano_folder, tmp_path, dirs_exist_ok=True)
        path = ModelFolder(tmp_path).find(part)
        write_changed(other or path, path, change)
        with pytest.raises(error, match=message), load_models(tmp_path, CPU, "fp32").text:
            pass


def test_without_a_prompt_nothing_of_t5_is_needed(tmp_path: Path, nano_folder: Path) -> None:
    folder = shutil.copytree(nano_folder, tmp_path / "without")
    ModelFolder(folder).find("text_encoder").unlink()
    for offload in ("none", "disk"):
        models = load_models(folder, CPU, "fp32", offload=offload)
        assert not encode_prompt(" ", models).any()
        with pytest.raises(CheckpointError, match="text_encoder"):
            encode_prompt("a person", models)


def test_half_precision_files_compute_in_the_type_asked_for() -> None:
    """The built-in model's files, and a prompt's words through its text encoder."""
    with load_models(FOLDER, CPU, "fp32").text as encoder:
        embedding = encoder.encode("A person talks to the camera.", 16)
        assert torch.equal(embedding, encoder.encode("a person talks to the camera", 16))
    assert embedding.dtype == torch.float32
    assert embedding.shape == (1, 16, 32)


def test_a_random_set_is_complete_small_and_repeatable(tmp_path: Path, tiny_folder: Path) -> None:
    write_random_set(tmp_path / "again", 7, "tiny")
    for path in tiny_folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert sum(path.stat().st_size for path in tiny_folder.iterdir()) <= 8_000_000
    assert read_model_config(ModelFolder(tiny_folder).find("transformer")) == TINY
    write_random_set(tmp_path / "again", 8, "tiny")
    for path in tiny_folder.iterdir():
        assert path.read_bytes() != (tmp_path / "again" / path.name).read_bytes()


def test_a_random_set_overwrites_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        write_random_set(tmp_path, 0, "nano")
    real = tmp_path / "real"
    real.mkdir()
    write_weights(ModelFolder(real).find("vae"), {"a": torch.zeros(1)}, {"part": "vae", "config": {}})
    with pytest.raises(InputError, match=r"vae\.safetensors"):
        write_random_set(real, 0, "nano")


def cut_positions(table: Tensor) -> Tensor:
    """The first frames, rows and columns of TINY's positions, for ``SMALLER``."""
    text, video = table[0].split((TINY.trunk.text_tokens, TINY.segment.shape.latent.tokens))
    return torch.cat((text, video.unflatten(0, (13, 4, 6))[:3, :2, :3].flatten(0, 2)))[None]


def cut_by_hand(folder: Path, target: Path) -> None:
    """A TINY set whose files are for ``SMALLER``."""
    shutil.copytree(folder, target)
    for part in ("transformer", "reference"):
        path = ModelFolder(target).find(part)
        state, header = load_file(path), read_config(path)
        state[POSITIONS] = cut_positions(state[POSITIONS])
        header["config"]["segment"] = to_dict(SMALLER)
        write_weights(path, state, header)


@pytest.mark.parametrize("offload", ["none", "blocks", "disk"])
def test_a_smaller_segment_is_cut(tmp_path: Path, tiny_folder: Path, portrait: Tensor, offload: str) -> None:
    """However weights are loaded, both networks compute as those of a file that was cut by hand."""
    cut_by_hand(tiny_folder, tmp_path / "cut")
    cut = load_models(tmp_path / "cut", CPU, "fp32")
    models = load_models(tiny_folder, CPU, "fp32", offload=offload, segment=SMALLER)
    assert models.config == cut.config == replace(TINY, segment=SMALLER)
    found, wanted = (video(portrait, speech_of(4480), each, "hi", steps=2) for each in (models, cut))
    assert len(found) == 7
    assert torch.equal(found, wanted)


def test_positions_are_cut_out_of_the_original_s_checkpoint(tmp_path: Path) -> None:
    state = write_release(tmp_path, TINY)
    files = ModelFolder(tmp_path, segment=SMALLER)
    for part, prefix in ("transformer", TRANSFORMER_PREFIX), ("reference", REFERENCE_PREFIX):
        table = read_component(files.open(part), part, PRECISIONS["bf16"])[POSITIONS]
        assert torch.equal(table, cut_positions(state[f"{prefix}mixins.pos_embed.pos_embedding"]))


def test_a_segment_that_a_model_cannot_represent_is_refused(tiny_folder: Path) -> None:
    for change, message in (
        ({"frames": 53}, "at most 49 frames of 64 x 96 px"),
        ({"height": 80}, "larger than the model's own"),
        ({"width": 112}, "larger than the model's own"),
        ({"height": 40}, "32 or 48"),
        ({"frames": 10}, "9 or 13"),
    ):
        with pytest.raises(ShapeError, match=message):
            load_models(tiny_folder, CPU, "fp32", segment=replace(TINY.segment, **change))


def test_positions_of_another_grid_than_the_file_s_own_are_not_cut(tmp_path: Path, tiny_folder: Path) -> None:
    cut_by_hand(tiny_folder, tmp_path / "cut")
    for part in ("transformer", "reference"):
        path = ModelFolder(tmp_path / "cut").find(part)
        write_weights(path, load_file(path), read_config(ModelFolder(tiny_folder).find(part)))
    with pytest.raises(CheckpointError, match=f"{POSITIONS}.*50.*instead of.*344"):
        load_models(tmp_path / "cut", CPU, "fp32", segment=SMALLER)


def test_a_component_is_opened_once_until_its_file_is_replaced(tmp_path: Path, nano_folder: Path) -> None:
    files = ModelFolder(shutil.copytree(nano_folder, tmp_path / "model"))
    source = files.open("vae")
    assert files.open("vae") is source
    shutil.copyfile(nano_folder / "vae.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(files.find("vae"))
    assert files.open("vae") is not source
    files.find("vae").unlink()
    with pytest.raises(CheckpointError, match="cannot be opened"):
        files.open("vae")
