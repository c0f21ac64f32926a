"""Options of the command for speech: what they change in the video, its job and the files beside it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.media import audio
from hallo3.media.audio import Recording
from hallo3.speech import preprocess, vocals
from hallo3.speech.features import Windows
from hallo3.speech.vocals import VOCALS_FILENAME
from support import onnx_builder
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, inputs_in, packets, run, stop_at


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Two speakers, one a tenth as loud, and a pause with room noise."""
    inputs = inputs_in(tmp_path, nano_folder)
    room = 2e-3 * np.random.default_rng(1).standard_normal((1, 16000)).astype(np.float32)
    speech = np.concatenate((tone(16000, 0.6), room, 0.1 * tone(16000, 0.6)), axis=1)
    write_wav(Path(inputs["--speech"]), speech, 16000)
    return inputs


def jobs(inputs: dict[str, str]) -> set[str]:
    return {path.name for path in Path(inputs["-o"]).parent.glob("hallo3_jobs/*") if path.is_dir()}


@pytest.mark.parametrize("option", [{"level": "evened"}, {"silence": "muted"}])
def test_preprocessing_decides_the_video_and_its_job(inputs: dict[str, str], option: dict[str, str]) -> None:
    assert run(inputs) == 0
    plain, sound, first = frames_of(inputs["-o"]), packets(inputs["-o"], "audio"), jobs(inputs)
    assert run(inputs, level="as-recorded", silence="as-recorded", hearing="auto") == 0
    assert jobs(inputs) == first, "the defaults are the original's"
    assert run(inputs, **option) == 0
    assert len(jobs(inputs)) == 2
    assert packets(inputs["-o"], "audio") == sound, "the video's own sound stays the recording"
    changed = frames_of(inputs["-o"])
    assert changed.shape == plain.shape
    assert not np.array_equal(changed, plain)


def test_a_resumed_run_reuses_the_speech_features(inputs: dict[str, str], tmp_path: Path) -> None:
    options = {"level": "evened", "silence": "muted"}
    assert run(inputs, **options) == 0
    expected = packets(inputs["-o"], "video")
    other = inputs | {"-o": str(tmp_path / "other" / "v.mp4")}
    (tmp_path / "other").mkdir()
    patch = stop_at(2, KeyboardInterrupt())
    assert run(other, **options) == 1
    patch.undo()
    folder = next((tmp_path / "other").glob("hallo3_jobs/*/speech"))
    assert sorted(path.name for path in folder.iterdir()) == ["layer_00.f32", "layer_01.f32"]
    chart = tmp_path / "speech.png"
    assert run(other, **options, speech_chart=str(chart)) == 0
    assert chart.is_file()
    assert packets(other["-o"], "video") == expected
    assert not folder.exists()


def test_the_chart_is_drawn_before_anything_is_rendered(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart, files = tmp_path / "speech.png", list[str]()
    real = audio.read_pieces

    def count(path: Path) -> Iterator[Recording]:
        files.append(path.name)
        return real(path)

    monkeypatch.setattr(audio, "read_pieces", count)
    patch = stop_at(0, KeyboardInterrupt())
    assert run(inputs, speech_chart=str(chart)) == 1
    patch.undo()
    with Image.open(chart) as drawn:
        assert drawn.size[0] == 960
    assert len(files) == 2, "once for its stats and once for its samples"
    assert run(inputs, speech_chart=str(tmp_path / "speech.txt")) == 2
    assert run(inputs, speech_chart=str(tmp_path / "absent" / "speech.png")) == 2


def test_windows_are_a_warning_and_another_job(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    assert run(inputs, hearing="windows") == 0
    assert len(jobs(inputs)) == 1, "all of it fits in one window"
    assert "approximation" not in capsys.readouterr().err
    plain = frames_of(inputs["-o"])
    monkeypatch.setattr(preprocess, "choose_windows", lambda *_: Windows(30, 10))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert run(inputs, hearing="windows") == 0
    assert "approximation" in capsys.readouterr().err
    assert len(jobs(inputs)) == 2
    assert not np.array_equal(frames_of(inputs["-o"]), plain)


@pytest.fixture
def model(inputs: dict[str, str], tmp_path: Path) -> Path:
    """A model folder of its own, for a vocal separator."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    shutil.copytree(inputs["--model"], tmp_path / "own model")
    inputs["--model"] = str(tmp_path / "own model")
    return tmp_path / "own model"


def write_separator(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@pytest.mark.usefixtures("model")
def test_vocals_decide_the_video_and_its_job(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    recorded, plain = frames_of(inputs["-o"]), jobs(inputs)
    assert "vocals" not in capsys.readouterr().err.lower()
    path = write_separator(tmp_path / VOCALS_FILENAME, onnx_builder.deaf_separator())
    assert run(inputs, vocals=path) == 0
    assert "not the published file" in capsys.readouterr().err
    separated, both = frames_of(inputs["-o"]), jobs(inputs)
    assert separated.shape == recorded.shape
    assert not np.array_equal(separated, recorded)
    assert len(both) == len(plain) + 1
    same = write_separator(tmp_path / "same" / VOCALS_FILENAME, Path(path).read_bytes())
    assert run(inputs, vocals=same) == 0
    assert jobs(inputs) == both, "the file's content counts"
    write_separator(Path(path), onnx_builder.separator(0.5))
    assert run(inputs, vocals=path) == 0
    assert len(jobs(inputs)) == len(both) + 1
    write_separator(Path(path), onnx_builder.separator(float("nan")))
    assert run(inputs, vocals=path) == 2
    assert "output cannot be used" in capsys.readouterr().err


def test_vocals_without_a_name_are_the_model_folder_s(
    inputs: dict[str, str], model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs, "--vocals", "--plan") == 2
    error = capsys.readouterr().err
    assert "The vocal separator's file is missing." in error
    path = Path("audio_separator") / VOCALS_FILENAME
    assert str(path) in error
    write_separator(model / path, onnx_builder.separator())
    assert run(inputs, "--vocals", "--plan") == 2
    assert "not the published one" in capsys.readouterr().err
    published = sha256(onnx_builder.separator()).hexdigest()
    monkeypatch.setattr(vocals, "EXPECTED", replace(vocals.EXPECTED, sha256=published))
    assert run(inputs, "--vocals", "--plan") == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(inputs, "--vocals", "--plan") == 1
    assert "pip install onnxruntime" in capsys.readouterr().err
