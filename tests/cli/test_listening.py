"""How the recording is listened to, by the command: other jobs, other videos, and a picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.cli import speech as cli_speech
from hallo3.media import audio as long_sound
from hallo3.media.audio import Recording
from hallo3.segments import SegmentPlan
from hallo3.speech import preprocess as listening
from hallo3.speech.features import Windows
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, inputs_in, packets, run, stop_at


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Two speakers, one a tenth as loud, and a pause with the noise of a room."""
    found = inputs_in(tmp_path, nano_folder)
    room = 2e-3 * np.random.default_rng(1).standard_normal((1, 16000)).astype(np.float32)
    speech = np.concatenate((tone(16000, 0.6), room, 0.1 * tone(16000, 0.6)), axis=1)
    write_wav(Path(found["--speech"]), speech, 16000)
    return found


def jobs(inputs: dict[str, str]) -> list[str]:
    return sorted(path.name for path in Path(inputs["-o"]).parent.glob("hallo3_jobs/*") if path.is_dir())


@pytest.mark.parametrize("changes", [{"level": "evened"}, {"silence": "muted"}])
def test_what_is_heard_decides_the_video_and_its_job(inputs: dict[str, str], changes: dict[str, str]) -> None:
    assert run(inputs) == 0
    plain, sound, first = frames_of(inputs["-o"]), packets(inputs["-o"], "audio"), jobs(inputs)
    assert run(inputs, level="as-recorded", silence="as-recorded", hearing="auto") == 0
    assert jobs(inputs) == first, "the defaults are the original's"
    assert run(inputs, **changes) == 0
    assert len(jobs(inputs)) == 2
    assert packets(inputs["-o"], "audio") == sound, "the video's own sound stays the recording"
    changed = frames_of(inputs["-o"])
    assert changed.shape == plain.shape
    assert not np.array_equal(changed, plain)


def test_a_stopped_run_goes_on_with_what_it_heard(inputs: dict[str, str], tmp_path: Path) -> None:
    options = {"level": "evened", "silence": "muted"}
    assert run(inputs, **options) == 0
    wanted = packets(inputs["-o"], "video")
    other = inputs | {"-o": str(tmp_path / "other" / "v.mp4")}
    (tmp_path / "other").mkdir()
    patch = stop_at(2, KeyboardInterrupt())
    assert run(other, **options) == 1
    patch.undo()
    kept = next((tmp_path / "other").glob("hallo3_jobs/*/speech"))
    assert sorted(path.name for path in kept.iterdir()) == ["heard.json", "layer_00.f32", "layer_01.f32"]
    chart = tmp_path / "speech.png"
    assert run(other, **options, speech_chart=str(chart)) == 0
    assert chart.is_file()
    assert packets(other["-o"], "video") == wanted
    assert not kept.exists()


def test_speech_encoding_resumes_after_the_last_layer(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs) == 0
    wanted = packets(inputs["-o"], "video")
    shutil.rmtree(tmp_path / "hallo3_jobs")
    real, noted = cli_speech.note, list[str]()

    def note(folder: Path, heard: dict[str, str], layer: cli_speech.ArrayFile) -> None:
        real(folder, heard, layer)
        noted.append(layer.path.name)
        if len(noted) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_speech, "note", note)
    assert run(inputs) == 1
    assert run(inputs) == 0
    assert noted == ["layer_00.f32", "layer_01.f32"]
    assert packets(inputs["-o"], "video") == wanted


def test_the_recording_is_drawn_before_anything_is_rendered(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart, read = tmp_path / "speech.png", list[str]()
    real = long_sound.read_pieces

    def counted(path: Path) -> Iterator[Recording]:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(long_sound, "read_pieces", counted)
    patch = stop_at(0, KeyboardInterrupt())
    assert run(inputs, speech_chart=str(chart)) == 1
    patch.undo()
    with Image.open(chart) as drawn:
        assert drawn.size[0] == 960
    assert len(read) == 2, "once for its facts and once for its sound"
    assert run(inputs, speech_chart=str(tmp_path / "speech.txt")) == 2
    assert run(inputs, speech_chart=str(tmp_path / "absent" / "speech.png")) == 2


def test_windows_are_told_and_another_job(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    assert run(inputs, hearing="windows") == 0
    assert len(jobs(inputs)) == 1, "all of it fits in one window"
    assert "approximation" not in capsys.readouterr().err
    plain = frames_of(inputs["-o"])

    def small(hearing: str, plan: SegmentPlan) -> Windows:
        assert (hearing, plan.frames) == ("windows", 55)
        return Windows(30, 10)

    monkeypatch.setattr(listening, "windows_for", small)
    assert run(inputs, hearing="windows") == 0
    assert "approximation" in capsys.readouterr().err
    assert len(jobs(inputs)) == 2
    assert not np.array_equal(frames_of(inputs["-o"]), plain)


def test_other_words_are_refused(inputs: dict[str, str]) -> None:
    for name in ("level", "silence", "hearing"):
        with pytest.raises(SystemExit):
            run(inputs, **{name: "loud"})
