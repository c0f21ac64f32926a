"""``hallo3 animate``: a video, its plan and charts; stopped, resumed, redone, continued, killed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import loading
from hallo3.cli import renderer
from hallo3.cli.main import main
from hallo3.jobs import video_job
from hallo3.media.video import CODECS
from support.audio_samples import tone, write_wav
from support.kill_process import run_kills
from support.resume_runs import before, frames_of, packets, run, stop_at


def sound_of(path: str) -> tuple[float, np.ndarray]:
    """Seconds and samples."""
    with av.open(path) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        return len(samples) / container.streams.audio[0].rate, samples


def test_a_video_has_all_frames_and_the_sound(
    inputs: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, prompt="hi", seed=str(2**64 - 1)) == 0
    out, err = capfd.readouterr()
    assert "55 frames, 2.20 s, 32 x 32" in out
    assert "8/8" in err
    assert "segment 4/4" in err
    assert re.findall("note: .*", err) == ["note: attention by torch (automatic); plain kernels"]
    assert frames_of(inputs["-o"]).shape == (55, 48, 32)  # yuv420p
    seconds, samples = sound_of(inputs["-o"])
    assert abs(seconds - 2.2) < 0.05
    assert float(np.abs(samples).max()) > 0.3
    names = sorted(path.name for path in Path(inputs["-o"]).parent.iterdir())
    assert names == ["hallo3_jobs", "p.png", "s.wav", "v.mp4"]


def test_frames_are_enlarged(inputs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    write_wav(Path(inputs["--speech"]), tone(16000, 0.2), 16000)
    assert run(inputs, enlarge="3") == 0
    assert "96 x 96" in capsys.readouterr().out
    assert frames_of(inputs["-o"]).shape == (5, 96 * 3 // 2, 96)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_in_every_container(inputs: dict[str, str], codec: str) -> None:
    """The last segment has a single frame: h265 and prores went wrong there."""
    write_wav(Path(inputs["--speech"]), tone(16000, 16 / 25), 16000)
    for suffix in CODECS[codec].files:
        output = str(Path(inputs["-o"]).with_suffix(suffix))
        assert run(inputs | {"-o": output}, codec=codec) == 0
        assert len(packets(output, "video")) == 16


def test_other_files_are_left_alone_and_names_may_be_long(inputs: dict[str, str]) -> None:
    folder, longest = Path(inputs["-o"]).parent, "x" * 251 + ".mp4"
    names = ["v.partial.mp4", "v.mp4.unfinished", "v.unfinished", "so_far.mp4"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    assert run(inputs | {"-o": str(folder / longest)}) == 0
    assert [(folder / name).read_bytes() for name in names] == [name.encode() for name in names]
    assert len(frames_of(folder / longest)) == 55


def test_a_link_is_written_through(inputs: dict[str, str], tmp_path: Path) -> None:
    target, link = tmp_path / "real.mp4", tmp_path / "link.mp4"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert run(inputs | {"-o": str(link)}) == 0
    assert link.is_symlink()
    assert len(frames_of(target)) == 55


def test_a_plan_renders_nothing(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "read_component", None)
    del inputs["-o"]
    write_wav(Path(inputs["--speech"]), tone(16000, 0.72), 16000)
    assert run(inputs, "--plan", "--json", steps="7", guidance="1", enlarge="16") == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert plan.pop("disk") == plan.pop("job") + plan.pop("video") > 0
    assert (plan.pop("attention"), plan.pop("memory") > 2**29) == ("auto", True)
    assert [plan.pop(name) for name in ("render_seconds", "measured", "grows")] == [None, False, False]
    assert plan == {
        "model": "nano",
        "segments": 2,
        "frames": 18,
        "seconds": 0.72,
        "width": 512,
        "height": 512,
        "fps": 25,
        "steps": 7,
        "guidance_scale": 1.0,
        "sampler": "dpmpp_2m_sde",
        "network_evaluations": 14,
    }
    assert err == ""


def test_a_plan_uses_the_time_of_earlier_runs(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, "--plan", steps="7") == 0
    out = capsys.readouterr().out
    assert "56 evaluations" in out
    assert "no earlier run" in out
    assert run(inputs) == 0
    assert run(inputs, "--plan") == 0
    out = capsys.readouterr().out
    assert "from earlier runs" in out
    assert "no earlier run" not in out


def test_a_video_that_cannot_fit_on_the_disk_is_refused(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    monkeypatch.setattr(renderer, "load_models", None)
    for flags in (("--plan",), ()):
        assert run(inputs, *flags) == 2
        assert "1 kB free" in capsys.readouterr().err


def test_drift_is_drawn(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs, chart=str(tmp_path / "drift.png")) == 0
    with Image.open(tmp_path / "drift.png") as chart:
        assert chart.size[0] == 960


def test_a_stopped_run_is_resumed(
    inputs: dict[str, str], undisturbed: bytes, rendered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs) == 1
    patch.undo()
    so_far = next(Path(inputs["-o"]).parent.glob("hallo3_jobs/*/so_far.mp4"))
    err = capsys.readouterr().err
    assert "2 of 4 segments are saved; the same command resumes from there" in err
    assert f"; the video so far is {so_far}" in err
    assert len(packets(so_far, "video")) >= 15
    rendered.clear()
    assert run(inputs) == 0
    out, err = capsys.readouterr()
    assert "resuming after 2 of 4 finished segments" in err
    assert "2 of 4 segments were already rendered" in out
    assert rendered == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == undisturbed
    assert not so_far.exists()


def test_another_torch_is_reported_once(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs) == 1
    patch.undo()
    monkeypatch.setattr(video_job, "describe_machine", lambda: "torch 9.9 on another card")
    capsys.readouterr()
    assert run(inputs) == 0
    assert "this video was started with torch" in capsys.readouterr().err
    assert run(inputs) == 0
    assert "started with" not in capsys.readouterr().err


def test_a_finished_video_needs_no_network(
    inputs: dict[str, str], rendered: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(inputs) == 0
    monkeypatch.setattr(renderer, "load_models", None)
    rendered.clear()
    assert run(inputs | {"-o": str(tmp_path / "again.mp4")}) == 0
    assert (tmp_path / "again.mp4").read_bytes() == Path(inputs["-o"]).read_bytes()
    assert rendered == []


def test_another_input_leaves_the_stopped_job(inputs: dict[str, str], rendered: list[int]) -> None:
    """``test_request`` has the inputs that make another job."""
    patch = stop_at(1, KeyboardInterrupt())
    assert run(inputs) == run(inputs, seed="1") == 1
    patch.undo()
    assert rendered == [0, 0]
    assert run(inputs) == 0
    assert rendered == [0, 0, 1, 2, 3]


def test_segments_are_rendered_again(
    inputs: dict[str, str], rendered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    first = packets(inputs["-o"], "video")
    rendered.clear()
    assert run(inputs, redo="2-3") == 0
    assert rendered == [1, 2]
    assert "re-rendering segments 2 to 3 as take 1" in capsys.readouterr().err
    after = packets(inputs["-o"], "video")
    assert after[:15] == first[:15]
    assert after[45:] == first[45:]
    assert after[15:45] != first[15:45]
    assert run(inputs, redo="2-3") == 0
    assert "are already take 1" in capsys.readouterr().err
    assert run(inputs, redo="9") == 2


def test_a_video_is_started_over(
    inputs: dict[str, str], rendered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs, "--fresh") == 1
    patch.undo()
    err = capsys.readouterr().err
    assert "earlier work was moved to" in err
    assert "the same command without --fresh resumes from there" in err
    assert run(inputs) == 0
    assert rendered == [0, 1, 2, 3, 0, 1, 2, 3]
    jobs = Path(inputs["-o"]).parent / "hallo3_jobs"
    assert sorted(path.name.endswith(".old-1") for path in jobs.iterdir() if path.is_dir()) == [False, True]


def test_a_video_is_continued_with_more_speech(
    inputs: dict[str, str], rendered: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    first = packets(inputs["-o"], "video")
    write_wav(tmp_path / "more.wav", tone(48000, 1.0, 2), 48000)
    longer = inputs | {"--speech": str(tmp_path / "more.wav"), "-o": str(tmp_path / "longer.mp4")}
    rendered.clear()
    for _ in range(2):
        assert run(longer, continue_from=inputs["-o"]) == 0
        assert rendered == [0, 1]
        both = packets(tmp_path / "longer.mp4", "video")
        assert both[:55] == first
        assert len(both) == 55 + 25
    seconds, samples = sound_of(longer["-o"])
    assert abs(seconds - 3.2) < 0.05
    assert float(np.abs(samples[-20000:]).max()) > 0.3
    assert run(longer, continue_from=inputs["-o"], redo="1") == 2
    assert "of 5 to 6" in capsys.readouterr().err


def test_a_recording_that_changes_meanwhile_makes_no_video(
    inputs: dict[str, str], undisturbed: bytes, rendered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    speech = Path(inputs["--speech"])
    original = speech.read_bytes()
    patch = before(renderer, "load_models", lambda: write_wav(speech, tone(16000, 2.2) * 0.3, 16000))
    assert run(inputs) == 2
    patch.undo()
    assert "changed while the video was rendered" in capsys.readouterr().err
    assert rendered == []
    speech.write_bytes(original)
    assert run(inputs) == 0
    assert Path(inputs["-o"]).read_bytes() == undisturbed


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_twenty_kills_lose_nothing(tmp_path: Path, nano_folder: Path) -> None:
    """At random moments; 200 times in ``tests/soak``."""
    assert run_kills(tmp_path, nano_folder, kills=20, seed=1)["kills"] == 20


def test_random_weights_animate(
    tmp_path: Path, inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    assert main(["tiny", str(folder), "--seed", "3", "--size", "nano"]) == 0
    assert "random nano weights" in capsys.readouterr().out
    assert run(inputs, model=str(folder)) == 0
    assert main(["tiny", str(tmp_path), "--seed", "3"]) == 2
    assert main(["tiny", str(folder), "--seed", "-3"]) == 2
