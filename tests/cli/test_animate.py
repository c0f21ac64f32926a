"""``hallo3 animate``: a video, its plan and charts; stopped, resumed, redone, continued, killed."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import loading
from hallo3.checkpoints import random_weights
from hallo3.cli import renderer
from hallo3.cli.animate import TRIAL_COMMENT
from hallo3.cli.main import main
from hallo3.config import NANO
from hallo3.media.mux import AI_COMMENT
from hallo3.media.video import CODECS
from support.audio_samples import tone, write_wav
from support.kill_process import run_kills
from support.resume_runs import Command, Undisturbed, before, frames_of, packets


def check_sound(path: Path, seconds: float) -> None:
    """Its length, and that its end is not silent."""
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert abs(len(samples) / container.streams.audio[0].rate - seconds) < 0.05
    assert float(np.abs(samples[-20000:]).max()) > 0.3


def test_a_video_has_all_frames_and_sound_and_a_chart(command: Command, tmp_path: Path) -> None:
    assert command(prompt="hi", seed=2**64 - 1, chart=tmp_path / "drift.png") == 0
    assert "55 frames, 2.20 s, 32 x 32" in command.out
    assert "8/8" in command.err
    assert "segment 4/4" in command.err
    assert re.findall("note: .*", command.err) == ["note: attention by torch (automatic); plain kernels"]
    assert frames_of(command.video).shape == (55, 48, 32)  # yuv420p
    check_sound(command.video, 2.2)
    with Image.open(tmp_path / "drift.png") as chart:
        assert chart.size[0] == 960
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["drift.png", "hallo3_jobs", "p.png", "s.wav", "v.mp4"]


def test_frames_are_enlarged(command: Command) -> None:
    command.speak(0.2)
    assert "96 x 96" in command.stdout(enlarge=3)
    assert frames_of(command.video).shape == (5, 96 * 3 // 2, 96)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_in_every_container(command: Command, codec: str) -> None:
    """The last segment has a single frame: h265 and prores went wrong there."""
    command.speak(16 / 25)
    for suffix in CODECS[codec].files:
        assert command(o=command.video.with_suffix(suffix), codec=codec) == 0
        assert len(packets(command.video.with_suffix(suffix), "video")) == 16


def test_a_link_is_written_through_to_a_long_name_and_other_files_are_left_alone(command: Command) -> None:
    folder, target = command.video.parent, command.video.with_name("x" * 251 + ".mp4")
    names = ["v.partial.mp4", "v.mp4.unfinished", "v.unfinished", "so_far.mp4"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    target.write_bytes(b"old")
    command.video.symlink_to(target)
    assert command() == 0
    assert command.video.is_symlink()
    assert [(folder / name).read_bytes() for name in names] == [name.encode() for name in names]
    assert len(frames_of(target)) == 55


def test_a_plan_renders_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_component", None)
    command.speak(0.72)
    plan = json.loads(command.stdout("--plan", "--json", o=None, steps=7, guidance=1, enlarge=16))
    assert command.err == ""
    assert plan.pop("disk") == plan.pop("job") + plan.pop("video") > 0
    assert (plan.pop("attention"), plan.pop("memory") > 2**29) == ("auto", True)
    assert [plan.pop(name) for name in ("render_seconds", "measured", "grows")] == [None, False, False]
    sizes = {"segments": 2, "frames": 18, "seconds": 0.72, "width": 512, "height": 512, "fps": 25}
    steps = {"steps": 7, "guidance_scale": 1.0, "sampler": "dpmpp_2m_sde", "network_evaluations": 14}
    assert plan == {"model": "nano", **sizes, **steps}


def test_a_plan_uses_the_time_of_earlier_runs(command: Command) -> None:
    out = command.stdout("--plan", steps=7)
    assert "56 evaluations" in out
    assert "no earlier run" in out
    assert command() == 0
    out = command.stdout("--plan")
    assert "from earlier runs" in out
    assert "no earlier run" not in out


def test_a_video_larger_than_the_disk_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    monkeypatch.setattr(renderer, "load_models", None)
    for flags in (["--plan"], []):
        assert "1 kB free" in command.stderr(*flags, code=2)


def test_a_stopped_run_is_resumed(command: Command, undisturbed: Undisturbed) -> None:
    err = command.stop(2)
    so_far = next(command.jobs.glob("*/so_far.mp4"))
    assert "2 of 4 segments are saved; the same command resumes from there" in err
    assert f"; the video so far is {so_far}" in err
    assert len(packets(so_far, "video")) >= 15
    assert "resuming after 2 of 4 finished segments" in command.stderr()
    assert "2 of 4 segments were already rendered" in command.out
    assert command.rendered == [2, 3]
    assert command.video.read_bytes() == undisturbed.video
    assert not so_far.exists()


def test_a_finished_video_needs_no_network(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command() == 0
    monkeypatch.setattr(renderer, "load_models", None)
    again = command.video.with_name("again.mp4")
    assert command(o=again) == 0
    assert again.read_bytes() == command.video.read_bytes()
    assert command.rendered == []


def test_another_input_leaves_the_stopped_job(command: Command) -> None:
    """``test_request`` has the inputs that make another job."""
    for seed in (0, 1):
        command.stop(1, seed=seed)
        assert command.rendered == [0, 1]
    assert command() == 0
    assert command.rendered == [1, 2, 3]


def test_segments_are_rendered_again(command: Command) -> None:
    assert command() == 0
    first = packets(command.video, "video")
    assert "re-rendering segments 2 to 3 as take 1" in command.stderr(redo="2-3")
    assert command.rendered == [1, 2]
    after = packets(command.video, "video")
    assert (after[:15], after[45:]) == (first[:15], first[45:])
    assert after[15:45] != first[15:45]
    assert "are already take 1" in command.stderr(redo="2-3")
    assert command(redo=9) == 2


def test_a_video_is_started_over(command: Command) -> None:
    assert command() == 0
    err = command.stop(2, "--fresh")
    assert "earlier work was moved to" in err
    assert "the same command without --fresh resumes from there" in err
    assert command.rendered == [0, 1, 2]
    assert command() == 0
    assert command.rendered == [2, 3]
    assert sorted(name.endswith(".old-1") for name in command.names_of_jobs()) == [False, True]


def test_a_video_is_continued_with_more_speech(command: Command, tmp_path: Path) -> None:
    assert command() == 0
    first, longer = packets(command.video, "video"), tmp_path / "longer.mp4"
    more = {"speech": write_wav(tmp_path / "more.wav", tone(48000, 1.0, 2), 48000), "o": longer}
    more["continue_from"] = command.video
    for rendered in ([0, 1], []):
        assert command(**more) == 0
        assert command.rendered == rendered
        both = packets(longer, "video")
        assert both[:55] == first
        assert len(both) == 55 + 25
    check_sound(longer, 3.2)
    assert "of 5 to 6" in command.stderr(**more, redo=1, code=2)


def test_a_recording_that_changes_makes_no_video(command: Command, undisturbed: Undisturbed) -> None:
    original = command.speech.read_bytes()
    quieter = lambda: write_wav(command.speech, tone(16000, 2.2) * 0.3, 16000)  # noqa: E731
    with before(renderer, "load_models", quieter):
        assert "changed while the video was rendered" in command.stderr(code=2)
    assert command.rendered == []
    command.speech.write_bytes(original)
    assert command() == 0
    assert command.video.read_bytes() == undisturbed.video


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_eight_kills_lose_nothing(tmp_path: Path, nano_folder: Path) -> None:
    """At random moments; 200 times in ``tests/soak``, with a longer video."""
    assert run_kills(tmp_path, nano_folder, kills=8, seed=1, seconds=1.6)["kills"] == 8


def test_random_weights_animate(tmp_path: Path, command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    assert main(["tiny", str(folder), "--seed", "3", "--size", "nano"]) == 0
    assert "random nano weights" in capfd.readouterr().out
    assert command(model=folder) == 0
    assert main(["tiny", str(tmp_path), "--seed", "3"]) == 2
    assert main(["tiny", str(folder), "--seed", "-3"]) == 2


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random set with the released model's canvas."""
    folder, segment = tmp_path_factory.mktemp("large"), replace(NANO.segment, height=480, width=720)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_weights.SIZES, "nano", replace(NANO, segment=segment))
        random_weights.write_random_set(folder, 7, "nano")
    return folder


@pytest.mark.parametrize("flags", [[], ["--offload", "blocks"], ["--offload", "disk"]])
def test_a_trial_has_a_small_canvas(command: Command, large_folder: Path, flags: list[str]) -> None:
    command.inputs |= {"--model": str(large_folder), "--prompt": "hi"}
    plan = json.loads(command.stdout("--trial", "--plan", "--json", *flags))
    assert [plan[name] for name in ("model", "frames", "height", "steps")] == ["nano (trial)", 7, 64, 2]
    command.stop(0, "--trial", *flags)
    found: list[str] = []
    for video, rendered, mark in ("v.mp4", [0], []), ("again.mp4", [], ["--no-mark"]):
        path = command.video.with_name(video)
        last = command.stdout("--trial", *flags, *mark, o=path).splitlines()[-1]
        assert command.rendered == rendered
        assert last.startswith("a trial: everything loads and runs; this is no picture to judge by.")
        assert "2 steps of 9 frames" in last
        assert ("--fresh" in last) == (not rendered)
        assert len(frames_of(path)) == 7
        check_sound(path, 0.28)
        with av.open(str(path)) as container:
            found.append(container.metadata["comment"])
    assert found == [f"{AI_COMMENT} {TRIAL_COMMENT}", TRIAL_COMMENT]
    assert len(command.names_of_jobs()) == 1
    assert "nano (trial)" in command.stdout("--jobs")
