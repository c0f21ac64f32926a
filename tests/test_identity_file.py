"""Identities and their files: read equals written; damaged files and other models are refused."""

import json
import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3 import identity_file
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.load import META, read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import make_random_state, write_random_set
from hallo3.checkpoints.tensor_entry import header_bytes
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.config import NANO
from hallo3.errors import CheckpointError, FaceError, OutputError
from hallo3.geometry import PixelBox
from hallo3.identity import Identity, Provenance, frame_portrait
from hallo3.identity_file import check_model, fingerprint_in, read_identity, same_model, write_identity
from hallo3.loading import load_models
from hallo3.media.canvas import Canvas
from hallo3.media.paste_back import PasteBack
from hallo3.model.transformer import Hallo3Transformer
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import encode_prompt, encode_speech, extract_identity, render_identity
from hallo3.quantization import PRECISIONS
from support.original_checkpoints import write_release
from support.own_process import measure_growth
from support.short_runs import settings


@pytest.fixture(scope="module")
def identity(nano: Models) -> Identity:
    picture = torch.rand(3, 90, 70, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(90, 70)
    mask[20:60, 20:55] = 1
    face = replace(nano.face.analyze(picture), mask=mask)
    portrait = frame_portrait(picture, face, NANO.segment.shape, "face")
    with torch.inference_mode():
        return extract_identity(portrait, nano, settings(nano), make_noise(0), keep_photograph=True)


@pytest.fixture(scope="module")
def mark(nano_folder: Path) -> Tensor:
    """The fingerprint of the model."""
    return fingerprint_in(nano_folder / "transformer.safetensors")


@pytest.fixture(scope="module")
def path(mark: Tensor, identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identities") / "new" / "anna.safetensors"
    write_identity(identity, mark, path)
    return path


def list_tensors(identity: Identity) -> list[Tensor]:
    few = [identity.canvas.pixels, identity.face_embedding, identity.paste_back.photograph, identity.preview]
    return [*few, *identity.reference_features]


def are_equal(ones: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    pairs = zip(ones, others, strict=True)
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


def test_read_equals_written_bit_for_bit(path: Path, identity: Identity) -> None:
    read = read_identity(path)
    assert are_equal(list_tensors(identity), list_tensors(read))
    for name in ("space", "canvas.rows", "canvas.columns", "paste_back.place"):
        assert attrgetter(name)(read) == attrgetter(name)(identity)


def test_the_video_is_equal(path: Path, identity: Identity, nano: Models) -> None:
    def video(identity: Identity) -> Tensor:
        with torch.inference_mode():
            speech, prompt = encode_speech(speech_of(16000), nano), encode_prompt("", nano)
            frames = render_identity(identity, speech, prompt, nano, settings(nano), make_noise(5))
            return torch.cat([each.pixels for each in frames])

    assert torch.equal(video(read_identity(path)), video(identity))


def test_equal_identities_have_equal_files(path: Path, mark: Tensor, identity: Identity) -> None:
    again = path.with_name("again.safetensors")
    for equal in (identity, read_identity(path)):
        write_identity(equal, mark, again)
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_features_keep_their_type(dtype: torch.dtype, identity: Identity, tmp_path: Path) -> None:
    stored = replace(identity, reference_features=tuple(f.to(dtype) for f in identity.reference_features))
    write_identity(stored, torch.ones(8), tmp_path / "a.safetensors")
    read = read_identity(tmp_path / "a.safetensors")
    assert are_equal(stored.reference_features, read.reference_features)


def test_provenance_is_stored(path: Path, mark: Tensor, identity: Identity, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    assert read_identity(path).provenance == Provenance(), "unknown"
    for each in Provenance(), Provenance("int8", ("int8", "attention sage")), Provenance("", ("sage",)):
        write_identity(replace(identity, provenance=each), mark, file)
        read, content = read_identity(file), file.read_bytes()
        assert read.provenance == each
        write_identity(read, mark, file)
        assert file.read_bytes() == content
        same = content == path.read_bytes()
        assert same == (each == Provenance()), "files without provenance do not change"


def test_another_model_is_refused(path: Path, mark: Tensor, tmp_path: Path) -> None:
    identity, trunk, face = read_identity(path), NANO.trunk, NANO.face
    check_model(identity, NANO, lambda: mark)
    write_random_set(tmp_path, 4, "nano")
    with pytest.raises(CheckpointError, match=r"made for another model(.|\n)*other weights"):
        check_model(identity, NANO, lambda: fingerprint_in(tmp_path / "transformer.safetensors"))
    for changes in (
        {"segment": replace(NANO.segment, height=NANO.segment.height * 2)},
        {"trunk": replace(trunk, layers=trunk.layers + 1)},
        {"trunk": replace(trunk, heads=trunk.heads * 2)},
        {"face": replace(face, space="another")},
        {"face": replace(face, embedding_dim=face.embedding_dim + 1)},
    ):
        with pytest.raises(CheckpointError, match="made for another model"):
            check_model(identity, replace(NANO, **changes), lambda: torch.zeros(0))


def test_every_flipped_byte_and_every_cut_is_detected(path: Path, tmp_path: Path) -> None:
    content, broken = path.read_bytes(), tmp_path / "b.safetensors"
    wrongs = [content[: int(share * len(content))] for share in (0.0, 0.01, 0.5, 0.999)]
    for place in [*random.Random(2).sample(range(len(content)), 60), *range(0, 400, 20)]:
        wrongs.append(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
    for wrong in wrongs:
        broken.write_bytes(wrong)
        with pytest.raises(CheckpointError):
            read_identity(broken)


def test_other_files_are_refused(nano_folder: Path, path: Path, identity: Identity, tmp_path: Path) -> None:
    later, other = tmp_path / "later.safetensors", nano_folder / "reference.safetensors"
    later.write_bytes(path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    reasons = {other: "not a Hallo3 identity", tmp_path / "absent.safetensors": "cannot be opened"}
    for file, reason in (reasons | {later: r"another version(.|\n)*format 2"}).items():
        with pytest.raises(CheckpointError, match=reason):
            read_identity(file)
    with pytest.raises(OutputError, match="cannot be saved"):
        write_identity(identity, torch.ones(8), later / "a.safetensors")


def test_the_file_contains_no_code(path: Path) -> None:
    with TensorFile(path) as file:
        facts = json.loads(file.metadata["hallo3"])
    assert facts["part"] == "identity"
    assert set(facts) == {"part", "format", "space", "rows", "columns", "place", "content"}


def test_models_of_a_saved_identity_need_no_reference_network(nano_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(nano_folder, tmp_path, ignore=lambda *_: ["reference.safetensors"], dirs_exist_ok=True)
    few = load_models(tmp_path, torch.device("cpu"), "fp32", extract=False)
    with few.transformer, few.vae:
        pass
    with pytest.raises(FaceError, match="No face analyzer was loaded"):
        few.face.analyze(torch.zeros(3, 64, 64))


SHOWN = torch.zeros(3, 64, 64, dtype=torch.uint8)
BLACK = Canvas(pixels=torch.zeros(1, 3, 1, 8, 8), rows=slice(0, 8), columns=slice(0, 8))
SMALL = Identity(
    canvas=BLACK,
    space="thumbnail",
    face_embedding=torch.ones(1, 48),
    reference_features=(torch.zeros(1, 4, 8),) * 2,
    paste_back=PasteBack(photograph=SHOWN, place=PixelBox(0, 0, 64, 64)),
    preview=SHOWN,
)
PLACES = (-100, -100, -50, -50), (5, 5, 5, 5), (0, 0, 1e300, 9), (0, 0, 10**400, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"paste_back": PasteBack(photograph=SHOWN, place=PixelBox(*place))} for place in PLACES),
        {"paste_back": PasteBack(photograph=SHOWN[:, :63], place=PixelBox(0, 0, 9, 9))},
        {"paste_back": PasteBack(photograph=SHOWN.float(), place=PixelBox(0, 0, 9, 9))},
        {"preview": SHOWN[0]},
        {"preview": SHOWN[:, :0]},
        {"preview": SHOWN.float()},
        {"reference_features": ()},
        {"reference_features": (torch.zeros(1, 4, 8), torch.zeros(1, 5, 8))},
        {"reference_features": (torch.full((1, 4, 8), float("nan")),)},
        {"face_embedding": torch.zeros(48)},
        {"face_embedding": torch.full((1, 48), 1e30)},
        {"face_embedding": torch.zeros(1, 48, dtype=torch.long)},
        {"canvas": replace(BLACK, pixels=torch.full((1, 3, 1, 8, 8), 1e3))},
        {"canvas": replace(BLACK, rows=slice(0, 9))},
        {"canvas": replace(BLACK, pixels=torch.full((1, 3, 1, 8, 8), 2.6))},
        {"canvas": replace(BLACK, pixels=torch.zeros(1, 3, 1, 8, 4097))},
        {"face_embedding": torch.full((1, 48), 1e-5)},
        {"face_embedding": torch.full((1, 48), 200.0)},
        {"face_embedding": torch.ones(1, 65537)},
        {"reference_features": (torch.full((1, 4, 8), 1.1e6),)},
        {"reference_features": (torch.zeros(1, 1, 1),) * 513},
        {"reference_features": (torch.zeros(1, 4, 8, dtype=torch.float64),)},
        {"reference_features": (torch.zeros(1, 4, 8), torch.zeros(1, 4, 8).half())},
        {"space": "\x1b[2J"},
        {"space": "a" * 61},
    ],
)
def test_impossible_values_are_refused_even_with_a_valid_hash(wrong: dict[str, Any], tmp_path: Path) -> None:
    check_damaged(replace(SMALL, **wrong), tmp_path)


def test_an_identity_without_a_face_is_read(tmp_path: Path) -> None:
    write_identity(
        replace(SMALL, face_embedding=torch.zeros(1, 48)), torch.ones(8), tmp_path / "a.safetensors"
    )
    assert not read_identity(tmp_path / "a.safetensors").face_embedding.any()


def test_other_files_with_an_identity_s_name_are_refused_unread(tmp_path: Path) -> None:
    path, facts = tmp_path / "a.safetensors", {"part": "identity", "format": 1, "space": "x"}
    block = "reference_features.{:03}".format
    cases: list[tuple[dict[str, Any], dict[str, int], str]] = [
        (facts, {"program": 1}, "a tensor 'program'"),
        (facts, {block(0): 5 << 30}, "5,368,[0-9,]* bytes"),
        (facts, {"canvas": 1 << 33}, "canvas of"),
        (facts, {block(n): 1 for n in range(513)}, "512"),
        (facts | {"format": [1]}, {}, "another version"),
        (facts, {}, "damaged"),
    ]
    for given, sizes, message in cases:
        layout = ((name, torch.uint8, (size,)) for name, size in sizes.items())
        path.write_bytes(header := header_bytes(layout, {"hallo3": json.dumps(given)}))
        os.truncate(path, len(header) + sum(sizes.values()))
        with measure_growth() as growth, pytest.raises(CheckpointError, match=message):
            read_identity(path)
        assert growth[0] < 100
    for text in (
        '{"part": "identity", "part": "identity"}',
        '{"part": "identity", "a": NaN}',
        '{"part":' * 9999,
    ):
        path.write_bytes(header_bytes([], {"hallo3": text}))
        with pytest.raises(CheckpointError, match="not a Hallo3 identity"):
            read_identity(path)


def check_damaged(identity: Identity, folder: Path, mark: float = 1.0) -> None:
    write_identity(identity, torch.full((8,), mark), folder / "a.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_identity(folder / "a.safetensors")


NAMES = "int8", [["int8"]], ["a"] * 100, ["a" * 61], ["\x1b[2J\n note: all is well"]


def test_provenance_is_a_few_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, wrong = identity_file._facts, [{}, [], 7, {"precision": "int8"}]
    wrong += [{"precision": precision, "approximations": []} for precision in (8, "int8" * 1000)]
    for each in (*wrong, *({"precision": "int8", "approximations": names} for names in NAMES)):
        monkeypatch.setattr(
            identity_file, "_facts", lambda identity, each=each: facts(identity) | {"made": each}
        )
        check_damaged(SMALL, tmp_path)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_a_fingerprint_close_to_every_model_is_refused(value: float, tmp_path: Path) -> None:
    check_damaged(SMALL, tmp_path, value)
    assert not same_model(torch.full((8,), value), torch.ones(8))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8"])
def test_a_model_is_recognized_in_any_precision(precision: str, nano_folder: Path, mark: Tensor) -> None:
    state = read_component(nano_folder / "transformer.safetensors", "transformer", PRECISIONS[precision])
    assert all(state[name].dtype.itemsize > 1 for name in identity_file.FINGERPRINT_WEIGHTS)
    assert same_model(mark, identity_file.fingerprint(state.__getitem__))


def test_a_model_is_recognized_by_the_original_names(tmp_path: Path) -> None:
    """bf16 as published, compared with fp32."""
    write_release(tmp_path, NANO)
    plain = make_random_state(Hallo3Transformer(NANO, META), maps.TRANSFORMER_PREFIX)
    published = fingerprint_in(ModelFolder(tmp_path).find("transformer"))
    assert same_model(identity_file.fingerprint(plain.__getitem__), published)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_model_is_recognized_with_all_weights_in_8_bits(tiny_folder: Path, kind: torch.dtype) -> None:
    """As ComfyUI stores them on request; another model in 8 bits is still another."""
    mark = fingerprint_in(tiny_folder / "transformer.safetensors")
    eight = mark.to(torch.bfloat16).to(kind).float()
    assert same_model(mark, eight)
    assert same_model(eight, mark)
    other = (mark + 0.05 * torch.randn(mark.shape, generator=torch.Generator().manual_seed(0))).to(kind)
    assert not same_model(mark, other.float())


@pytest.mark.parametrize(
    ("provenance", "now", "warning"),
    [
        ((), (), ""),
        ((), ("int8",), ""),
        (("int8",), ("int8",), ""),
        (("int8",), (), "int8 (approximate)"),
        (("int8", "attention sage"), ("attention sage",), "with int8 (approximate)"),
        (("int8", "attention sage"), (), "int8, attention sage (approximate)"),
    ],
)
def test_approximations_of_an_earlier_run_are_reported(provenance: Any, now: Any, warning: str) -> None:
    text = replace(SMALL, provenance=Provenance("bf16", provenance)).approximation_warning(now)
    assert warning in text
    assert bool(text) == bool(warning)
