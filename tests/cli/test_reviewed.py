"""What went wrong once: inputs that change underway, names of other people's, advice that does not hold."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from hallo3.cli import renderer
from hallo3.cli import speech as listen
from hallo3.cli.main import main
from hallo3.jobs import render as video_job
from hallo3.media.video import CODECS
from support.audio_samples import tone, write_wav
from support.resume_runs import (
    before,
    before_segment,
    frames_of,
    inputs_in,
    packets,
    record_rendered,
    run,
    stop_at,
)


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    return inputs_in(tmp_path, nano_folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_rendered(monkeypatch)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_in_every_file_from_the_command(inputs: dict[str, str], codec: str) -> None:
    """One last segment of a single frame too: h265 and prores went wrong there."""
    write_wav(Path(inputs["--speech"]), tone(16000, 16 / 25), 16000)
    for suffix in CODECS[codec].files:
        output = str(Path(inputs["-o"]).with_suffix(suffix))
        assert run(inputs | {"-o": output}, codec=codec) == 0
        assert len(packets(output, "video")) == 16


def test_a_recording_that_changes_underway_makes_no_video(
    inputs: dict[str, str], drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    speech = Path(inputs["--speech"])
    first = speech.read_bytes()

    def swap() -> None:
        write_wav(speech, tone(16000, 2.2) * np.float32(0.3), 16000)

    patch = before(renderer, "load_models", swap)
    assert run(inputs) == 2
    patch.undo()
    assert "changed while the video was rendered" in capsys.readouterr().err
    assert drawn == []
    speech.write_bytes(first)
    assert run(inputs) == 0
    changed = packets(inputs["-o"], "video")
    assert run(inputs, "--fresh") == 0
    assert packets(inputs["-o"], "video") == changed


def test_other_files_beside_the_video_are_left_alone(inputs: dict[str, str]) -> None:
    folder = Path(inputs["-o"]).parent
    names = ["v.partial.mp4", "v.mp4.unfinished", "v.unfinished", "so_far.mp4"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    assert run(inputs) == 0
    assert [(folder / name).read_bytes() for name in names] == [name.encode() for name in names]


def test_names_may_be_as_long_as_the_system_allows(inputs: dict[str, str]) -> None:
    longest = str(Path(inputs["-o"]).with_name("x" * 251 + ".mp4"))
    assert run(inputs | {"-o": longest}) == 0
    assert len(frames_of(longest)) == 55


def test_a_video_is_gone_on_from_by_what_it_is(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = {"--jobs-folder": str(tmp_path / "J")}
    for name, seed in (("x", "1"), ("y", "2")):
        (tmp_path / name).mkdir()
        assert run(inputs | folder | {"-o": str(tmp_path / name / "v.mp4")}, seed=seed) == 0
    write_wav(tmp_path / "more.wav", tone(16000, 0.5), 16000)
    longer = inputs | folder | {"--speech": str(tmp_path / "more.wav"), "-o": str(tmp_path / "w.mp4")}
    assert run(longer, continue_from=str(tmp_path / "x" / "v.mp4")) == 0
    wanted = packets(tmp_path / "x" / "v.mp4", "video")
    assert packets(tmp_path / "w.mp4", "video")[: len(wanted)] == wanted
    assert run(longer, continue_from=str(tmp_path / "x" / "v.mp4"), redo="1") == 2
    assert "of 5 to 5" in capsys.readouterr().err
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs | folder | {"-o": str(tmp_path / "x" / "v.mp4")}, seed="1", redo="2-3") == 1
    patch.undo()
    assert run(longer, continue_from=str(tmp_path / "x" / "v.mp4")) == 2
    assert "no video to continue" in capsys.readouterr().err
    assert run(longer | {"--quality": "30"}, continue_from=str(tmp_path / "y" / "v.mp4")) in (0, 2)


def test_a_fresh_start_that_is_stopped_says_how_to_go_on(
    inputs: dict[str, str], drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs, "--fresh") == 1
    patch.undo()
    assert "the same command without --fresh resumes from there" in capsys.readouterr().err
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [2, 3]


def test_listening_goes_on_after_the_last_layer(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs) == 0
    wanted = packets(inputs["-o"], "video")
    shutil.rmtree(Path(inputs["-o"]).parent / "hallo3_jobs")
    real, noted = listen.note, list[str]()

    def note(folder: Path, heard: dict[str, str], layer: listen.ArrayFile) -> None:
        real(folder, heard, layer)
        noted.append(layer.path.name)
        if len(noted) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(listen, "note", note)
    assert run(inputs) == 1
    assert run(inputs) == 0
    assert noted == ["layer_00.f32", "layer_01.f32"]
    assert packets(inputs["-o"], "video") == wanted


def test_jobs_are_found_from_inside_and_held_ones_stay(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = str(tmp_path / "elsewhere")
    said: list[str] = []

    def look() -> None:
        main(["jobs", other, "--clear", "all"])
        said.append(capsys.readouterr().err)

    patch = before_segment(2, look)
    assert run(inputs | {"--jobs-folder": other}) == 0
    patch.undo()
    assert "Another run is working on this job." in said[0]
    monkeypatch.chdir(other)
    capsys.readouterr()
    assert main(["jobs"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["jobs", other, "--clear", "all"]) == 0
    assert [path.name for path in Path(other).iterdir() if path.is_dir()] == []


def test_names_that_a_terminal_cannot_show_do_not_fail_a_run(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert run(inputs | {"-o": str(tmp_path / "\u65e5\u672c.mp4")}) == 0
    sys.stdout.flush()
    assert b"u65e5" in raw.getvalue()


def test_a_link_is_written_through(inputs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "v.mp4"
    target.write_bytes(b"old")
    link = tmp_path / "link.mp4"
    link.symlink_to(target)
    assert run(inputs | {"-o": str(link)}) == 0
    assert link.is_symlink()
    assert len(frames_of(target)) == 55


def test_a_video_begun_with_another_torch_says_so(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs) == 1
    patch.undo()
    capsys.readouterr()
    monkeypatch.setattr(video_job, "describe_machine", lambda: "torch 9.9 on another card")
    assert run(inputs) == 0
    assert "this video was started with torch" in capsys.readouterr().err
    assert run(inputs) == 0
    assert "started with" not in capsys.readouterr().err
