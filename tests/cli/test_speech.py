"""Options of the command for speech: what they change in the video, its job and the files beside it."""

import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.media import audio
from hallo3.speech import preprocess, vocals
from hallo3.speech.features import Windows
from hallo3.speech.vocals import VOCALS_FILENAME
from support import onnx_builder
from support.audio_samples import tone, write_wav
from support.resume_runs import Command, before, frames_of, packets


@pytest.fixture
def command(command: Command) -> Command:
    """Two speakers, one a tenth as loud, and a pause with room noise."""
    room = 2e-3 * np.random.default_rng(1).standard_normal((1, 16000)).astype(np.float32)
    speech = np.concatenate((tone(16000, 0.6), room, 0.1 * tone(16000, 0.6)), axis=1)
    write_wav(command.speech, speech, 16000)
    return command


@pytest.mark.parametrize("option", [{"level": "evened"}, {"silence": "muted"}])
def test_preprocessing_decides_the_video_and_its_job(command: Command, option: dict[str, str]) -> None:
    assert command() == 0
    plain, sound, first = frames_of(command.video), packets(command.video, "audio"), command.names_of_jobs()
    assert command(level="as-recorded", silence="as-recorded", hearing="auto") == 0
    assert command.names_of_jobs() == first, "the defaults are the original's"
    assert command(**option) == 0
    assert len(command.names_of_jobs()) == 2
    assert packets(command.video, "audio") == sound, "the video's own sound stays the recording"
    changed = frames_of(command.video)
    assert changed.shape == plain.shape
    assert not np.array_equal(changed, plain)


def test_a_resumed_run_reuses_the_speech_features(command: Command, tmp_path: Path) -> None:
    command.inputs |= {"--level": "evened", "--silence": "muted"}
    assert command() == 0
    expected, other = packets(command.video, "video"), tmp_path / "other"
    command.inputs["-o"] = str(other / "v.mp4")
    other.mkdir()
    command.stop(2)
    folder = next(other.glob("hallo3_jobs/*/speech"))
    assert sorted(path.name for path in folder.iterdir()) == ["layer_00.f32", "layer_01.f32"]
    assert command(speech_chart=tmp_path / "speech.png") == 0
    assert (tmp_path / "speech.png").is_file()
    assert packets(command.video, "video") == expected
    assert not folder.exists()


def test_the_chart_is_drawn_before_anything_is_rendered(command: Command, tmp_path: Path) -> None:
    reads: list[int] = []
    with before(audio, "read_pieces", lambda: reads.append(1)):
        command.stop(0, speech_chart=tmp_path / "speech.png")
    with Image.open(tmp_path / "speech.png") as drawn:
        assert drawn.size[0] == 960
    assert len(reads) == 2, "once for its stats and once for its samples"
    for wrong in ("speech.txt", "absent/speech.png"):
        assert command(speech_chart=tmp_path / wrong) == 2


def test_windows_are_a_warning_and_another_job(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command() == 0
    assert "approximation" not in command.stderr(hearing="windows")
    assert len(command.names_of_jobs()) == 1, "all of it fits in one window"
    plain = frames_of(command.video)
    monkeypatch.setattr(preprocess, "choose_windows", lambda *_: Windows(30, 10))
    assert "approximation" in command.stderr(hearing="windows")
    assert len(command.names_of_jobs()) == 2
    assert not np.array_equal(frames_of(command.video), plain)


def write_separator(path: Path, content: bytes) -> Path:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_vocals_decide_the_video_and_its_job(command: Command, tmp_path: Path) -> None:
    path = write_separator(tmp_path / VOCALS_FILENAME, onnx_builder.deaf_separator())
    assert "vocals" not in command.stderr().lower()
    recorded = frames_of(command.video)
    assert "not the published file" in command.stderr(vocals=path)
    separated = frames_of(command.video)
    assert separated.shape == recorded.shape
    assert not np.array_equal(separated, recorded)
    assert len(command.names_of_jobs()) == 2
    assert command(vocals=write_separator(tmp_path / "same" / VOCALS_FILENAME, path.read_bytes())) == 0
    assert len(command.names_of_jobs()) == 2, "the file's content counts"
    assert command(vocals=write_separator(path, onnx_builder.separator(0.5))) == 0
    assert len(command.names_of_jobs()) == 3
    write_separator(path, onnx_builder.separator(float("nan")))
    assert "output cannot be used" in command.stderr(vocals=path, code=2)


def test_vocals_are_the_model_folder_s(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they have a name."""
    path, flags = Path("audio_separator") / VOCALS_FILENAME, ("--vocals", "--plan")
    folder = shutil.copytree(command.inputs["--model"], command.video.with_name("own model"))
    command.inputs["--model"] = str(folder)
    error = command.stderr(*flags, code=2)
    assert "The vocal separator's file is missing." in error
    assert str(path) in error
    write_separator(folder / path, onnx_builder.separator())
    assert "not the published one" in command.stderr(*flags, code=2)
    published = sha256(onnx_builder.separator()).hexdigest()
    monkeypatch.setattr(vocals, "EXPECTED", replace(vocals.EXPECTED, sha256=published))
    assert command(*flags) == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in command.stderr(*flags, code=1)
