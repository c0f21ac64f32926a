"""The person to animate: portraits of any shape, and saved identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import attention_backend as attention
from hallo3.attention_backend import AttentionBackend
from hallo3.checkpoints import random_weights
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.config import NANO, FaceConfig
from hallo3.face.arcface import RECOGNIZER_FILENAME
from hallo3.face.scrfd import DETECTOR_FILENAME
from hallo3.identity import Provenance
from hallo3.identity_file import read_identity
from hallo3.model.layers import sdpa
from support import onnx_builder
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, run


@pytest.fixture
def tall(inputs: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Options of a run with a tall photograph."""
    picture = np.full((320, 180, 3), 90, np.uint8)
    picture[90:170, 50:120] = 200, 150, 120
    Image.fromarray(picture).save(tmp_path / "tall.png")
    return inputs | {"--portrait": str(tmp_path / "tall.png")}


@pytest.fixture
def saved(inputs: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Options of a run with the identity that a first run saved."""
    path = str(tmp_path / "anna.safetensors")
    assert run(inputs, save_identity=path) == 0
    options = inputs | {"--identity": path, "-o": str(tmp_path / "again.mp4")}
    del options["--portrait"]
    return options


def test_a_saved_identity_gives_the_same_video_without_the_reference_network(
    inputs: dict[str, str], saved: dict[str, str], tmp_path: Path, nano_folder: Path
) -> None:
    for part in ("transformer", "vae", "text_encoder", "speech_encoder"):
        (tmp_path / f"{part}.safetensors").symlink_to(nano_folder / f"{part}.safetensors")
    assert run(saved, model=str(tmp_path)) == 0
    assert np.array_equal(frames_of(saved["-o"]), frames_of(inputs["-o"]))


def test_an_identity_of_a_finished_video_can_be_saved(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs) == 0
    assert run(inputs, save_identity=str(tmp_path / "anna.safetensors")) == 0
    assert (tmp_path / "anna.safetensors").is_file()


def test_an_identity_of_another_model_is_refused(
    saved: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_set(tmp_path / "other", 2, "nano")
    assert run(saved, model=str(tmp_path / "other")) == 2
    assert "made for another model" in capsys.readouterr().err
    assert run(saved, save_identity=str(tmp_path / "b.safetensors")) == 2
    assert "--identity and --save-identity" in capsys.readouterr().err


def test_frames_are_pasted_back_into_a_tall_photograph(tall: dict[str, str], tmp_path: Path) -> None:
    box = {"face_box": "55,95,115,165"}
    assert run(tall, "--paste-back", preview=str(tmp_path / "shown.png"), **box) == 0
    with av.open(tall["-o"]) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert frames.shape[1:3] == (320, 180)
    with Image.open(tmp_path / "shown.png") as shown:
        assert min(shown.size) > 100
    picture = np.asarray(Image.open(tall["--portrait"]), np.float32)
    still = np.abs(frames.astype(np.float32) - picture).mean(axis=(0, 3))
    assert max(still[:20].max(), still[-60:].max()) < 12, "nothing moves outside the crop"


def test_framing_and_face_box_decide_the_crop(tall: dict[str, str]) -> None:
    videos: list[bytes] = []
    for options in ({"framing": "original"}, {"face_box": "55,95,115,165"}, {"face_box": "55,195,115,265"}):
        assert run(tall, **options) == 0
        videos.append(frames_of(tall["-o"]).tobytes())
    assert len(set(videos)) == 3


def test_an_identity_of_an_approximate_run_is_reported_in_another(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A CPU computes no approximate attention; torch's own stands in for one."""
    stand_in = AttentionBackend(name="sage", attend=sdpa, exact=False)
    monkeypatch.setattr(attention, "BACKENDS", {**attention.BACKENDS, "sage": stand_in})
    path = tmp_path / "anna.safetensors"
    assert run(inputs, attention="sage", save_identity=str(path)) == 0
    assert read_identity(path).provenance == Provenance("fp32", ("attention sage",))
    del inputs["--portrait"]
    for name, count in (("auto", 1), ("math", 1), ("sage", 0)):
        capsys.readouterr()
        assert run(inputs, "--plan", identity=str(path), attention=name) == 0
        err = capsys.readouterr().err
        assert err.count("note: the identity was made with attention sage (approximate)") == count


UNVERIFIED = "--faces-unverified"


@pytest.fixture
def photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options of a run with a random model that needs ArcFace, and small ONNX networks."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    photographic = replace(NANO, face=FaceConfig(tokens=2, token_dim=8))
    monkeypatch.setitem(random_weights.SIZES, "nano", photographic)
    random_weights.write_random_set(tmp_path / "model", 1, "nano")
    places = tmp_path / "model" / "face_analysis" / "models"
    places.mkdir(parents=True)
    (places / DETECTOR_FILENAME).write_bytes(onnx_builder.detector())
    (places / RECOGNIZER_FILENAME).write_bytes(onnx_builder.recognizer())
    pixels = np.full((640, 640, 3), 51, np.uint8)
    pixels[..., 0] = 0
    for column in (160, 480):
        pixels[320, column] = 230, 120, 128
    Image.fromarray(pixels).save(tmp_path / "p.png")
    pixels[320] = 0
    Image.fromarray(pixels).save(tmp_path / "no_face.png")
    write_wav(tmp_path / "s.wav", tone(16000, 0.6), 16000)
    names = {"--model": "model", "--portrait": "p.png", "--speech": "s.wav", "-o": "v.mp4"}
    return {name: str(tmp_path / value) for name, value in names.items()}


def test_a_photograph_is_animated_and_another_face_is_another_video(
    photograph: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photograph) == 2
    assert "not the published one" in capsys.readouterr().err
    assert run(photograph, UNVERIFIED) == 0
    first = frames_of(photograph["-o"])
    messages = capsys.readouterr().err
    assert "2 faces" in messages
    assert f"{DETECTOR_FILENAME} is not the published file" in messages
    assert run(photograph, UNVERIFIED, face="2") == 0
    assert "2 faces" not in capsys.readouterr().err
    assert not np.array_equal(frames_of(photograph["-o"]), first)
    assert run(photograph, UNVERIFIED, face="3") == 2
    assert "1 to 2 from the left" in capsys.readouterr().err


def test_no_face_is_an_error_unless_the_whole_picture_is_asked_for(
    photograph: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_face = photograph | {"--portrait": str(tmp_path / "no_face.png")}
    assert run(no_face, UNVERIFIED) == 2
    assert "No face was found" in capsys.readouterr().err
    assert run(no_face, UNVERIFIED, "--whole-picture") == 0


def test_files_that_are_missing_are_named_with_their_place(
    photograph: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path(photograph["--model"]).rglob("*.onnx"):
        path.unlink()
    assert run(photograph) == 2
    assert DETECTOR_FILENAME in capsys.readouterr().err
    assert run(photograph, faces=str(Path(photograph["--model"]) / "nowhere")) == 2
    assert DETECTOR_FILENAME in capsys.readouterr().err
