"""``hallo3 animate`` with a script: prompts by time, in the plan, in the chart, resumed and redone."""

import json
from pathlib import Path

from PIL import Image

from hallo3.cli.main import main
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
