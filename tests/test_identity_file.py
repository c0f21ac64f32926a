"""An identity out of a file equals the one that was put in, and fits no other model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.config import Hallo3Config
from hallo3.errors import CheckpointError, FaceError, OutputError
from hallo3.identity import Identity, Portrait, Provenance, frame_portrait
from hallo3.identity_file import check_made_for, fingerprint_in, read_identity, write_identity
from hallo3.loading import load_models
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import encode_prompt, encode_speech, extract_identity, perform
from hallo3.settings import Settings
from support.short_runs import settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_random_set(path, 3, "nano")
    return path


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return load_models(folder, CPU, "fp32")


@pytest.fixture(scope="module")
def portrait(models: Models) -> Portrait:
    picture = torch.rand(3, 90, 70, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(90, 70)
    mask[20:60, 20:55] = 1
    face = models.face.analyze(picture)
    return frame_portrait(picture, replace(face, mask=mask), models.config.segment.shape, "face")


@pytest.fixture(scope="module")
def identity(models: Models, portrait: Portrait) -> Identity:
    with torch.inference_mode():
        return extract_identity(portrait, models, settings(models), make_noise(0))


@pytest.fixture(scope="module")
def path(folder: Path, identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identities") / "new" / "anna.safetensors"
    write_identity(identity, fingerprint_in(folder / "transformer.safetensors"), path)
    return path


def tensors_of(identity: Identity) -> list[Tensor]:
    assert identity.surroundings is not None
    assert identity.overview is not None
    return [
        identity.canvas.pixels,
        identity.face_embedding,
        *identity.reference_features,
        identity.surroundings.photograph,
        identity.overview,
    ]


def test_what_is_read_equals_what_was_written_bit_for_bit(path: Path, identity: Identity) -> None:
    read = read_identity(path)
    for one, other in zip(tensors_of(identity), tensors_of(read), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert (read.space, read.canvas.rows, read.canvas.columns) == (
        identity.space,
        identity.canvas.rows,
        identity.canvas.columns,
    )
    assert read.surroundings is not None
    assert identity.surroundings is not None
    assert read.surroundings.place == identity.surroundings.place


def test_the_video_is_equal_too(path: Path, identity: Identity, models: Models) -> None:
    chosen: Settings = settings(models)

    def video(who: Identity) -> Tensor:
        with torch.inference_mode():
            speech = encode_speech(speech_of(16000), models)
            prompt, noise = encode_prompt("", models), make_noise(5)
            return torch.cat([f.pixels for f in perform(who, speech, prompt, models, chosen, noise)])

    assert torch.equal(video(read_identity(path)), video(identity))


def test_equal_identities_have_equal_files(
    path: Path, folder: Path, identity: Identity, tmp_path: Path
) -> None:
    mark = fingerprint_in(folder / "transformer.safetensors")
    write_identity(identity, mark, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    write_identity(read_identity(path), mark, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_features_keep_their_type(
    dtype: torch.dtype, folder: Path, identity: Identity, tmp_path: Path
) -> None:
    stored = replace(identity, reference_features=tuple(f.to(dtype) for f in identity.reference_features))
    mark = fingerprint_in(folder / "transformer.safetensors")
    write_identity(stored, mark, tmp_path / "a.safetensors")
    for one, other in zip(
        stored.reference_features,
        read_identity(tmp_path / "a.safetensors").reference_features,
        strict=True,
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "made",
    [
        Provenance(),
        Provenance("bf16"),
        Provenance("int8", ("int8", "attention sage")),
        Provenance("", ("attention_sage",)),
    ],
)
def test_how_features_were_made_is_kept(
    made: Provenance, path: Path, identity: Identity, tmp_path: Path
) -> None:
    mark, files = torch.ones(8), [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    write_identity(replace(identity, made=made), mark, files[0])
    read = read_identity(files[0])
    assert read.made == made
    write_identity(read, mark, files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    before = read_identity(path)
    assert before.made == Provenance(), "nobody has said"
    assert before.saved is not None
    assert read.saved is not None
    write_identity(before, mark, files[1])
    assert (files[0].read_bytes() == files[1].read_bytes()) == (made == Provenance()), (
        "older files stay as they are"
    )


def test_another_model_is_refused(path: Path, folder: Path, models: Models, tmp_path: Path) -> None:
    identity = read_identity(path)
    own = lambda: fingerprint_in(folder / "transformer.safetensors")  # noqa: E731
    check_made_for(identity, models.config, own)
    write_random_set(tmp_path, 4, "nano")
    other = ModelFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"made for another model(.|\n)*other weights"):
        check_made_for(identity, models.config, lambda: fingerprint_in(other.transformer))


@pytest.mark.parametrize("what", ["canvas", "blocks", "features", "space", "embedding"])
def test_other_sizes_are_refused(what: str, path: Path, models: Models) -> None:
    config, identity = models.config, read_identity(path)
    trunk, face, segment = config.trunk, config.face, config.segment
    others: dict[str, Hallo3Config] = {
        "canvas": replace(config, segment=replace(segment, height=segment.height * 2)),
        "blocks": replace(config, trunk=replace(trunk, layers=trunk.layers + 1)),
        "features": replace(config, trunk=replace(trunk, heads=trunk.heads * 2)),
        "space": replace(config, face=replace(face, space="another")),
        "embedding": replace(config, face=replace(face, embedding_dim=face.embedding_dim + 1)),
    }
    with pytest.raises(CheckpointError, match="made for another model"):
        check_made_for(identity, others[what], lambda: torch.zeros(0))


def test_every_flipped_byte_is_found_out(path: Path, tmp_path: Path) -> None:
    content, broken = path.read_bytes(), tmp_path / "b.safetensors"
    places = [*random.Random(2).sample(range(len(content)), 60), *range(0, 400, 20)]
    for place in places:
        wrong = bytearray(content)
        wrong[place] ^= 0x20
        broken.write_bytes(wrong)
        with pytest.raises(CheckpointError):
            read_identity(broken)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_file_is_refused(share: float, path: Path, tmp_path: Path) -> None:
    content, broken = path.read_bytes(), tmp_path / "b.safetensors"
    broken.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError):
        read_identity(broken)


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a Hallo3 identity"):
        read_identity(folder / "reference.safetensors")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_identity(tmp_path / "absent.safetensors")


def test_a_file_of_another_format_says_so(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 2')
    (tmp_path / "later.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"another version(.|\n)*format 2"):
        read_identity(tmp_path / "later.safetensors")


def test_a_folder_that_cannot_be_written_to_is_said(folder: Path, identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be saved"):
        write_identity(
            identity,
            fingerprint_in(folder / "transformer.safetensors"),
            tmp_path / "file" / "a.safetensors",
        )


def test_nothing_is_there_that_would_be_run(path: Path) -> None:
    with TensorFile(path) as file:
        said = json.loads(file.metadata["hallo3"])
    assert said["part"] == "identity"
    assert set(said) == {"part", "format", "space", "rows", "columns", "place", "content"}


def test_models_of_a_saved_identity_need_no_reference_network(folder: Path, tmp_path: Path) -> None:
    for name in ("transformer", "vae", "text_encoder", "speech_encoder"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    few = load_models(tmp_path, CPU, "fp32", extract=False)
    with few.transformer, few.vae:
        pass
    with pytest.raises(FaceError, match="No face analyzer was loaded"):
        few.face.analyze(torch.zeros(3, 64, 64))
