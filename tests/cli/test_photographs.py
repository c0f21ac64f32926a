"""A photograph through the command, with a random model that asks for ArcFace and small ONNX networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.checkpoints import random_weights as random_set
from hallo3.config import NANO, FaceConfig
from hallo3.face import arcface
from hallo3.face import scrfd as detector
from support import onnx_builder as onnx_files
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, run

UNVERIFIED = "--faces-unverified"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    photographic = replace(NANO, face=FaceConfig(tokens=2, token_dim=8))
    monkeypatch.setitem(random_set.SIZES, "nano", photographic)
    random_set.write_random_set(tmp_path / "model", 1, "nano")
    places = tmp_path / "model" / "face_analysis" / "models"
    places.mkdir(parents=True)
    (places / detector.DETECTOR_FILENAME).write_bytes(onnx_files.detector())
    (places / arcface.RECOGNIZER_FILENAME).write_bytes(onnx_files.recognizer())
    pixels = np.full((640, 640, 3), 51, np.uint8)
    pixels[..., 0] = 0
    for column in (160, 480):
        pixels[320, column] = 230, 120, 128
    Image.fromarray(pixels).save(tmp_path / "p.png")
    pixels[320] = 0
    Image.fromarray(pixels).save(tmp_path / "nobody.png")
    write_wav(tmp_path / "s.wav", tone(16000, 0.6), 16000)
    names = {"--model": "model", "--portrait": "p.png", "--speech": "s.wav", "-o": "v.mp4"}
    return {name: str(tmp_path / value) for name, value in names.items()}


def test_a_photograph_is_animated_and_another_face_is_another_video(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 2
    assert "not the published one" in capsys.readouterr().err
    assert run(inputs, UNVERIFIED) == 0
    first = frames_of(inputs["-o"])
    messages = capsys.readouterr().err
    assert "2 faces" in messages
    assert f"{detector.DETECTOR_FILENAME} is not the published file" in messages
    assert run(inputs, UNVERIFIED, face="2") == 0
    assert "2 faces" not in capsys.readouterr().err
    assert not np.array_equal(frames_of(inputs["-o"]), first)
    assert run(inputs, UNVERIFIED, face="3") == 2
    assert "1 to 2 from the left" in capsys.readouterr().err


def test_no_face_is_an_error_unless_the_whole_picture_is_asked_for(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = inputs | {"--portrait": str(tmp_path / "nobody.png")}
    assert run(nobody, UNVERIFIED) == 2
    assert "No face was found" in capsys.readouterr().err
    assert run(nobody, UNVERIFIED, "--whole-picture") == 0


def test_files_that_are_missing_are_named_with_their_place(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path(inputs["--model"]).rglob("*.onnx"):
        path.unlink()
    assert run(inputs) == 2
    assert detector.DETECTOR_FILENAME in capsys.readouterr().err
    assert run(inputs, faces=str(Path(inputs["--model"]) / "nowhere")) == 2
    assert detector.DETECTOR_FILENAME in capsys.readouterr().err
