"""Vocals through the command: another video, in a job of its own, or said why not."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.speech import vocals
from hallo3.speech.vocals import FILE
from support import onnx_builder as onnx_files
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, run


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    picture = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    write_wav(tmp_path / "s.wav", tone(16000, 0.4, 2), 16000)
    names = {"--model": "model", "--portrait": "p.png", "--speech": "s.wav", "-o": "v.mp4"}
    shutil.copytree(nano_folder, tmp_path / "model")
    return {name: str(tmp_path / value) for name, value in names.items()}


def separator(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def jobs(inputs: dict[str, str]) -> set[str]:
    return {path.name for path in (Path(inputs["-o"]).parent / "hallo3_jobs").iterdir() if path.is_dir()}


def test_what_is_separated_decides_the_video_and_its_job(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    recorded, plain = frames_of(inputs["-o"]), jobs(inputs)
    assert "vocals" not in capsys.readouterr().err.lower()
    deaf = separator(tmp_path / FILE, onnx_files.deaf_separator())
    assert run(inputs, vocals=deaf) == 0
    assert "not the published file" in capsys.readouterr().err
    separated, both = frames_of(inputs["-o"]), jobs(inputs)
    assert separated.shape == recorded.shape
    assert not np.array_equal(separated, recorded)
    assert len(both) == len(plain) + 1
    same = separator(tmp_path / "same" / FILE, Path(deaf).read_bytes())
    assert run(inputs, vocals=same) == 0
    assert jobs(inputs) == both
    separator(Path(deaf), onnx_files.separator(0.5))
    assert run(inputs, vocals=deaf) == 0
    assert len(jobs(inputs)) == len(both) + 1
    assert not np.array_equal(frames_of(inputs["-o"]), separated)
    softer = np.abs(frames_of(inputs["-o"]).astype(int) - recorded).mean()
    assert softer < np.abs(separated.astype(int) - recorded).mean()


def test_without_a_name_the_model_folder_s_file_is_used(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs, "--vocals", "--plan") == 2
    said = capsys.readouterr().err
    assert "The vocal separator's file is missing." in said
    assert str(Path("audio_separator") / FILE) in said
    separator(Path(inputs["--model"]) / "audio_separator" / FILE, onnx_files.separator())
    assert run(inputs, "--vocals", "--plan") == 2
    assert "not the published one" in capsys.readouterr().err
    published = sha256(onnx_files.separator()).hexdigest()
    monkeypatch.setattr(vocals, "EXPECTED", replace(vocals.EXPECTED, sha256=published))
    assert run(inputs, "--vocals", "--plan") == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(inputs, "--vocals", "--plan") == 1
    assert "pip install onnxruntime" in capsys.readouterr().err


def test_an_answer_that_cannot_be_used_stops_the_run(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = separator(tmp_path / FILE, onnx_files.separator(float("nan")))
    assert run(inputs, vocals=broken) == 2
    assert "answer cannot be used" in capsys.readouterr().err
    assert not Path(inputs["-o"]).exists()
