"""``hallo3 animate`` with a script: prompts by time, in the plan, in the chart, resumed and redone."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3.cli.main import main
from support.audio_samples import tone, write_wav
from support.resume_runs import Command, frames_of

LIGHTS = "[0:00-0:00.6] a warm\n[0:00.6-] a blue\n"


def write(folder: Path, text: str, name: str = "look.txt") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_one_prompt_everywhere_is_the_same_job(command: Command, tmp_path: Path) -> None:
    assert command(prompt="a warm") == 0
    jobs = command.names_of_jobs()
    before = command.video.read_bytes()
    everywhere = write(tmp_path, "[0:00-0:01] a warm\n[0:01-0:02] a warm\n")
    assert command(script=everywhere, prompt="a warm") == 0
    assert "segments were already rendered" in command.err
    assert command.names_of_jobs() == jobs
    assert command.video.read_bytes() == before


def test_a_script_changes_segments_from_its_cue_on(command: Command, tmp_path: Path) -> None:
    assert command(prompt="a warm") == 0
    plain = frames_of(command.video)
    script = write(tmp_path, LIGHTS)
    assert command(script=script) == 0
    changed = frames_of(command.video)
    assert (changed[:15] == plain[:15]).all(), "0:00.6 is the first new frame of segment 2"
    assert (changed[15:30] != plain[15:30]).any()
    assert len(command.names_of_jobs()) == 2
    assert command(script=script) == 0
    assert "already rendered" in command.err
    assert command(script=script, redo="0:01", take=2) == 0
    again = frames_of(command.video)
    assert (again[:15] == changed[:15]).all()
    assert (again[15:30] != changed[15:30]).any()


def test_a_plan_and_a_chart_show_the_prompts(command: Command, tmp_path: Path) -> None:
    script, chart = write(tmp_path, LIGHTS), tmp_path / "speech.png"
    said = command.stdout("--plan", script=script, speech_chart=chart)
    assert "prompts   0.00 s: a warm\n          0.60 s: a blue\n" in said
    with Image.open(chart) as picture:
        height = picture.size[1]
    facts = json.loads(command.stdout("--plan", "--json", script=script))
    assert facts["prompts"] == [[0.0, "a warm"], [0.6, "a blue"]]
    assert "prompts" not in command.stdout("--plan", speech_chart=chart)
    with Image.open(chart) as picture:
        assert picture.size[1] == height - 24


def test_a_script_is_refused_before_anything_is_loaded(command: Command, tmp_path: Path) -> None:
    wrong = write(tmp_path, "1\n00:00:01,000 -> 00:00:02,000\nwarm\n", "look.srt")
    assert "look.srt, line 2: '00:00:01,000 -> 00:00:02,000'" in command.stderr(script=wrong, code=2)
    assert "missing.srt" in command.stderr(script=tmp_path / "missing.srt", code=2)
    assert not (tmp_path / "hallo3_jobs").exists()


def test_rows_have_scripts(command: Command, tmp_path: Path) -> None:
    write(tmp_path, LIGHTS)
    table = tmp_path / "rows.jsonl"
    table.write_text('{"portrait": "p.png", "speech": "s.wav", "script": "look.txt", "output": "a.mp4"}\n')
    assert main(["batch", str(table), "--check", "--model", command.inputs["--model"]]) == 0


def speak_with_a_pause(command: Command) -> None:
    """Speech from 0 s to 0.4 s and from 1.2 s to 2.4 s."""
    sound = tone(16000, 2.4)
    sound[:, int(0.4 * 16000) : int(1.2 * 16000)] = 0
    write_wav(command.speech, sound, 16000)


def test_seams_in_pauses_keep_every_frame(command: Command) -> None:
    speak_with_a_pause(command)
    assert command() == 0
    assert len(frames_of(command.video)) == 60
    jobs = command.names_of_jobs()
    assert command(seams="pauses") == 0
    assert len(frames_of(command.video)) == 60
    assert command.rendered == [0, 1, 2, 3, 4]
    assert len(command.names_of_jobs() - jobs) == 1
    said = command.stdout("--plan", seams="pauses")
    assert "segments  5, 1 more for seams in pauses\n" in said
    assert json.loads(command.stdout("--plan", "--json", seams="pauses"))["more_segments"] == 1
    command.speak(2.2)
    jobs = command.names_of_jobs()
    assert command() == 0
    assert "there is no pause" in command.stderr(seams="pauses")
    assert len(command.names_of_jobs() - jobs) == 1, "the same video as without"


def test_a_chapter_begins_from_the_portrait(command: Command) -> None:
    speak_with_a_pause(command)
    assert command() == 0
    plain = frames_of(command.video)
    assert "2 chapters" in command.stdout("--plan", chapters=0.6, chapter_join="cut")
    assert command(chapters=0.6, chapter_join="cut") == 0
    cut = frames_of(command.video)
    assert command(chapters=0.6) == 0
    fade = frames_of(command.video)
    assert len(plain) == len(cut) == len(fade) == 60
    start = 20
    assert (cut[: start - 5] == plain[: start - 5]).all()
    assert (cut[start:] != plain[start:]).any()
    assert (fade[start : start + 5] != cut[start : start + 5]).any()
    assert command.stop(3, chapters=0.6, seed=1)
    assert command(chapters=0.6, seed=1) == 0
    resumed = command.video.read_bytes()
    assert command("--fresh", chapters=0.6, seed=1) == 0
    assert command.video.read_bytes() == resumed, "a chapter is resumed as it is rendered"
    assert "chapters 0.1" in command.stderr(chapters=0.1, code=2)


def test_cues_are_redone(command: Command, tmp_path: Path) -> None:
    script = write(tmp_path, LIGHTS)
    assert command(script=script) == 0
    assert "re-rendering segments 2 to 4 as take 3" in command.stderr(script=script, redo="cue 2", take=3)
    assert "cues from 1 to 2" in command.stderr(script=script, redo="cue 3", code=2)


def test_a_part_of_the_recording_with_silence_around_it(command: Command) -> None:
    changes = {"from": "0:01", "to": "1.6", "silence_before": 0.2, "silence_after": 0.4}
    assert "30 frames, 1.20 s" in command.stdout(**changes)
    assert "already rendered" in command.stderr(**changes)
    jobs = command.names_of_jobs()
    assert command(**changes | {"to": 1.4}) == 0
    assert len(command.names_of_jobs() - jobs) == 1
    assert "30 frames, 1.20 s" in command.stdout("--plan", **changes)
    with pytest.raises(SystemExit):
        command(**{"from": "1m"})
    assert "'1m' is no time" in command.capture.readouterr().err
    assert "ends before" in command.stderr(**{"from": 9}, code=2)


def colours_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("fps", [24, 30, 50, 60])
def test_frames_are_repeated_or_dropped_for_another_rate(command: Command, fps: int) -> None:
    assert command(codec="ffv1", o=command.video.with_suffix(".mkv")) == 0
    plain = colours_of(command.video.with_suffix(".mkv"))
    video = command.video.with_name("rate.mkv")
    said = command.stderr(codec="ffv1", o=video, fps=fps)
    assert f"frames are {'dropped' if fps < 25 else 'repeated'} to show {fps} per second" in said
    found = colours_of(video)
    assert len(found) == -(-55 * fps // 25)
    assert (found == plain[[number * 25 // fps for number in range(len(found))]]).all()
    assert command.stop(2, codec="ffv1", o=video, fps=fps, seed=1)
    assert command(codec="ffv1", o=video, fps=fps, seed=1) == 0
    resumed = colours_of(video)
    assert command("--fresh", codec="ffv1", o=video, fps=fps, seed=1) == 0
    assert (colours_of(video) == resumed).all()
    assert "already rendered" in command.stderr(codec="ffv1", o=video, fps=fps, seed=1)
