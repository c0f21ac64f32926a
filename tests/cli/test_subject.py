"""The person to animate: portraits of any shape, and saved identities."""

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
from support.resume_runs import Command, frames_of


@pytest.fixture
def tall(command: Command) -> Command:
    """A run with a tall photograph."""
    picture = np.full((320, 180, 3), 90, np.uint8)
    picture[90:170, 50:120] = 200, 150, 120
    Image.fromarray(picture).save(command.inputs["--portrait"])
    return command


def test_a_saved_identity_gives_the_same_video(command: Command, tmp_path: Path, nano_folder: Path) -> None:
    """Without the reference network's file."""
    saved = {"identity": tmp_path / "anna.safetensors", "portrait": None, "o": tmp_path / "again.mp4"}
    assert command() == 0
    assert command(save_identity=saved["identity"]) == 0, "that of a finished video can be saved, too"
    for part in ("transformer", "vae", "text_encoder", "speech_encoder"):
        (tmp_path / f"{part}.safetensors").symlink_to(nano_folder / f"{part}.safetensors")
    assert command(**saved, model=tmp_path) == 0
    assert np.array_equal(frames_of(tmp_path / "again.mp4"), frames_of(command.video))
    write_random_set(tmp_path / "other", 2, "nano")
    assert "made for another model" in command.stderr(**saved, model=tmp_path / "other", code=2)
    assert "--identity and --save-identity" in command.stderr(**saved, save_identity="b.safetensors", code=2)


def test_frames_are_pasted_back_into_a_tall_photograph(tall: Command, tmp_path: Path) -> None:
    assert tall("--paste-back", preview=tmp_path / "shown.png", face_box="55,95,115,165") == 0
    with av.open(str(tall.video)) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert frames.shape[1:3] == (320, 180)
    with Image.open(tmp_path / "shown.png") as shown:
        assert min(shown.size) > 100
    picture = np.asarray(Image.open(tall.inputs["--portrait"]), np.float32)
    still = np.abs(frames.astype(np.float32) - picture).mean(axis=(0, 3))
    assert max(still[:20].max(), still[-60:].max()) < 12, "nothing moves outside the crop"


def test_framing_and_face_box_decide_the_crop(tall: Command) -> None:
    videos = set[bytes]()
    for options in ({"framing": "original"}, {"face_box": "55,95,115,165"}, {"face_box": "55,195,115,265"}):
        assert tall(**options) == 0
        videos.add(frames_of(tall.video).tobytes())
    assert len(videos) == 3


def test_an_approximate_identity_is_reported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU computes no approximate attention; torch's own stands in for one."""
    stand_in = AttentionBackend(name="sage", attend=sdpa, exact=False)
    monkeypatch.setattr(attention, "BACKENDS", {**attention.BACKENDS, "sage": stand_in})
    path = command.video.with_name("anna.safetensors")
    assert command(attention="sage", save_identity=path) == 0
    assert read_identity(path).provenance == Provenance("fp32", ("attention sage",))
    for name, count in (("auto", 1), ("math", 1), ("sage", 0)):
        err = command.stderr("--plan", portrait=None, identity=path, attention=name)
        assert err.count("note: the identity was made with attention sage (approximate)") == count


UNVERIFIED = "--faces-unverified"


@pytest.fixture
def photograph(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A run with a random model that needs ArcFace, and small ONNX networks."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    photographic = replace(NANO, face=FaceConfig(tokens=2, token_dim=8))
    monkeypatch.setitem(random_weights.SIZES, "nano", photographic)
    write_random_set(tmp_path / "model", 1, "nano")
    places = tmp_path / "model" / "face_analysis" / "models"
    places.mkdir(parents=True)
    (places / DETECTOR_FILENAME).write_bytes(onnx_builder.detector())
    (places / RECOGNIZER_FILENAME).write_bytes(onnx_builder.recognizer())
    pixels = np.full((640, 640, 3), 51, np.uint8)
    pixels[..., 0] = 0
    pixels[320, [160, 480]] = 230, 120, 128
    Image.fromarray(pixels).save(tmp_path / "p.png")
    command.speak(0.6)
    command.inputs["--model"] = str(tmp_path / "model")
    return command


def test_a_photograph_is_animated_and_another_face_is_another_video(photograph: Command) -> None:
    assert "not the published one" in photograph.stderr(code=2)
    messages = photograph.stderr(UNVERIFIED)
    first = frames_of(photograph.video)
    assert "2 faces" in messages
    assert f"{DETECTOR_FILENAME} is not the published file" in messages
    assert "2 faces" not in photograph.stderr(UNVERIFIED, face=2)
    assert not np.array_equal(frames_of(photograph.video), first)
    assert "1 to 2 from the left" in photograph.stderr(UNVERIFIED, face=3, code=2)


def test_no_face_is_an_error_unless_the_whole_picture_is_asked_for(photograph: Command) -> None:
    Image.new("RGB", (640, 640)).save(photograph.inputs["--portrait"])
    assert "No face was found" in photograph.stderr(UNVERIFIED, code=2)
    assert photograph(UNVERIFIED, "--whole-picture") == 0


def test_files_that_are_missing_are_named_with_their_place(photograph: Command, tmp_path: Path) -> None:
    for path in (tmp_path / "model").rglob("*.onnx"):
        path.unlink()
    for place in (None, tmp_path / "model" / "nowhere"):
        assert DETECTOR_FILENAME in photograph.stderr(faces=place, code=2)
