"""Tables of videos: every form, every fault, and the videos that single commands make."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from hallo3.cli import batch, renderer
from hallo3.cli.main import main
from hallo3.cli.options import AnimateOptions
from hallo3.errors import OutputError
from hallo3.fleet.dispatch import Task
from hallo3.fleet.workers import StopRow
from hallo3.loading import load_models as load
from hallo3.progress import no_progress
from support.audio_samples import tone, write_wav

pytestmark = pytest.mark.any_message
PORTRAIT = str(REPOSITORY / "samples" / "portrait.png")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, seconds in (("a.wav", 0.5), ("b.wav", 0.3)):
        write_wav(tmp_path / name, tone(16000, seconds), 16000)
    return tmp_path


def write_table(home: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    path, names = home / f"rows{kind}", list(dict.fromkeys(name for row in rows for name in row))
    if kind == ".csv":
        lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif kind == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    else:  # JSON is YAML too
        path.write_text(json.dumps(rows))
    return path


def test_rows_become_the_videos_of_single_commands(
    home: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(nano_folder), "--whole-picture", "--steps", "1"]
    rows: list[dict[str, Any]] = [
        {"portrait": PORTRAIT, "speech": "a.wav", "seed": 3, "output": "one.mp4"},
        {"portrait": PORTRAIT, "speech": "b.wav", "paste-back": "yes"},
    ]
    table = write_table(home, rows, ".csv")
    assert [*map(dict, batch.read_table(table))] != rows
    for kind in (".jsonl", ".json", ".yaml"):
        assert batch.read_table(write_table(home, rows, kind)) == rows
    words = ["batch", str(table), "-o", str(home / "videos"), *common]
    assert main(words) == 0
    assert "2 of 2 rows are fine" in (said := capsys.readouterr().out)
    second = home / "videos" / "00002_portrait_b.mp4"
    assert str(second) in said
    alone = ["animate", "--portrait", PORTRAIT, "--speech", str(home / "a.wav"), "--seed", "3", *common]
    assert main([*alone, "-o", str(home / "alone" / "one.mp4")]) == 2, "no such folder"
    (home / "alone").mkdir()
    assert main([*alone, "-o", str(home / "alone" / "one.mp4")]) == 0
    assert (home / "alone" / "one.mp4").read_bytes() == (home / "one.mp4").read_bytes()
    before = second.stat().st_mtime_ns
    assert main(words) == 0
    assert "2 of 2 rows are fine; 2 were finished before" in capsys.readouterr().out
    [ledger] = (home / "videos").rglob("batch.jsonl")
    ledger.write_bytes(ledger.read_bytes()[:-20] + b"\n[]\n{\n{}\n" + b"[" * 2000)
    assert main(words) == 0, "the jobs know as much"
    assert capsys.readouterr().out.count("already rendered") == 1
    assert second.stat().st_mtime_ns == before
    (home / "one.mp4").write_bytes(b"another file")
    assert main(words) == 0
    assert (home / "one.mp4").read_bytes() == (home / "alone" / "one.mp4").read_bytes()
    assert "1 were finished before" in capsys.readouterr().out
    assert main([*words, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "in all    2 videos, 1 s, 2 segments, 4 evaluations of the network" in said
    assert main([*words, "--plan", "--json"]) == 0
    *each, bill = map(json.loads, capsys.readouterr().out.splitlines())
    assert [row["segments"] for row in each] == [1, 1]
    assert (bill["rows"], bill["disk"]) == (2, sum(row["disk"] for row in each))
    assert main([*words, "--shard", "1/2"]) == 0
    assert "1 of 1 rows are fine; 1 were" in capsys.readouterr().out
    for shard in ("0/2", "3/2", "1", "1/0", "a/b"):
        assert main([*words, "--shard", shard]) == 2


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no speech": ({"portrait": PORTRAIT}, "There is no speech"),
    "no such file": ({"portrait": PORTRAIT, "speech": "c.wav"}, "c.wav"),
    "another column": ({"portrait": PORTRAIT, "speech": "a.wav", "sped": 3}, "no option of animate"),
    "another type": ({"portrait": PORTRAIT, "speech": "a.wav", "seed": "x"}, "invalid int value"),
    "no choice": ({"portrait": PORTRAIT, "speech": "a.wav", "codec": "vhs"}, "invalid choice"),
    "no truth": ({"portrait": PORTRAIT, "speech": "a.wav", "paste_back": "maybe"}, "neither true nor false"),
    "a list": ({"portrait": PORTRAIT, "speech": "a.wav", "seed": [[1]]}, "no such value"),
    "a portrait that is none": ({"portrait": "a.wav", "speech": "a.wav"}, "cannot be read"),
    "an option of the command": ({"portrait": PORTRAIT, "speech": "a.wav", "plan": True}, "no option of"),
    "an output twice": ({"portrait": PORTRAIT, "speech": "a.wav", "output": "x.mp4"}, "Two rows"),
}


def test_a_check_names_every_fault(
    home: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "CHECKED_ROWS", 3)
    good = {"portrait": PORTRAIT, "speech": "a.wav", "output": "x.mp4"}
    table = write_table(home, [good, *(row for row, _ in FAULTS.values())], ".jsonl")
    assert main(["batch", str(table), "--model", str(nano_folder), "--whole-picture", "--check"]) == 1
    said = capsys.readouterr().out
    for number, (name, (_, text)) in enumerate(FAULTS.items(), 2):
        [line] = [part for part in said.split("row ") if part.startswith(f"{number} of")]
        assert text in line, name
    assert f"1 of {len(FAULTS) + 1} rows are fine, {len(FAULTS)} are not" in said
    assert sorted(path.name for path in home.iterdir()) == ["a.wav", "b.wav", "rows.jsonl"]


@pytest.mark.parametrize(("name", "text"), [
    ("a.csv", ""), ("a.csv", "portrait,speech"), ("a.csv", 'a,b\n"x'), ("a.jsonl", "{"), ("a.jsonl", "3"),
    ("a.json", '{"a": 1}'), ("a.json", "[" * 5000), ("a.yaml", "- a: *b"),
    ("a.yaml", "!!python/name:os.system"), ("a.txt", "a"), ("a.csv", "a\udcffb"), ("b.csv", None),
])  # fmt: skip
def test_what_is_no_table_is_refused(
    name: str, text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["batch", str(tmp_path / name)]) == 2
    assert "Traceback" not in (said := capsys.readouterr().err)
    assert "Fix:" in said


def test_a_row_that_fails_is_tried_again_and_others_go_ahead(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def animate(options: Any, follow: Any, session: Any) -> None:
        del follow, session
        tried.append(name := options.speech.stem)
        if name == "a" or (name == "b" and not options.low_memory):
            raise OutputError("No.") if name == "a" else MemoryError("no memory")

    monkeypatch.setattr(batch, "run_animate", animate)
    rows = [{"portrait": PORTRAIT, "speech": f"{name}.wav"} for name in "abc"]
    assert main(["batch", str(write_table(home, rows, ".csv"))]) == 1
    assert [tried.count(name) for name in "abc"] == [3, 2, 1]
    assert "2 of 3 rows are fine, 1 are not" in capsys.readouterr().out
    assert main(["batch", str(write_table(home, rows[:1], ".csv"))]) == 2


def test_a_row_that_is_stopped_leaves_its_models_for_the_next(
    home: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = list[object]()
    monkeypatch.setattr(
        renderer, "load_models", lambda *given, **named: loads.append(load(*given, **named)) or loads[-1]
    )
    render = batch.open_render(0, (), 0)

    def row(name: str, follow: Any) -> bytes:
        (home / name).mkdir(exist_ok=True)
        video = home / name / "a.mp4"
        options = AnimateOptions(portrait=Path(PORTRAIT), speech=home / "a.wav", model=nano_folder, steps=3)
        options = replace(options, output=video, whole_picture=True, offload="blocks")
        render(Task(number=1, key="", group=(), cost=1.0, payload=options), follow)
        return video.read_bytes()

    def stop(share: float) -> None:
        if share > 0.5:
            raise StopRow

    with pytest.raises(StopRow):
        row("stopped", stop)
    assert row("stopped", no_progress) == row("whole", no_progress)
    assert len(loads) == 1


def test_workers_in_processes_make_the_same_videos(
    home: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    rows = [{"portrait": PORTRAIT, "speech": f"{name}.wav"} for name in ("a", "b", "missing")]
    table = str(write_table(home, rows, ".csv"))
    words = ["batch", table, "--model", str(nano_folder), "--whole-picture", "--steps", "1", "-o"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*words, str(home / "here")]) == 1
        here = capsys.readouterr().err
        assert main([*words, str(home / "there"), "--workers", "2", "--json"]) == 1
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr()
    for text in (here, said.err):
        assert text.count(": attention by torch") == 2, "once, and at the end with its rows"
        assert "note: rows 1-2: attention by torch" in text
    events = [json.loads(line) for line in said.out.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert sorted(kinds) == ["began"] * 3 + ["done"] * 2 + ["over", "refused"]
    assert events[-1] == {"event": "over", "done": 2, "failed": 1}
    here, there = (
        {path.name: path.read_bytes() for path in (home / name).glob("*.mp4")} for name in ("here", "there")
    )
    assert len(here) == 2
    assert here == there


def test_ray_that_is_not_installed_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    table = write_table(home, [{"portrait": PORTRAIT, "speech": "a.wav"}], ".csv")
    assert main(["batch", str(table), "--ray"]) == 1
    assert "hallo3[ray]" in capsys.readouterr().err
    assert main(["batch", str(table), "--workers", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err


def test_a_row_is_uploaded_where_its_output_is_a_url(
    home: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = (home / "bucket" / "a.mkv").as_uri()
    row = {"portrait": PORTRAIT, "speech": "a.wav", "output": url}
    table = write_table(home, [row, row], ".csv")
    words = ["batch", str(table), "--model", str(nano_folder), "--whole-picture", "--steps", "1"]
    words += ["-o", str(home / "videos"), "--jobs-folder", str(home / "jobs")]
    assert main(words) == 1
    assert f"Two rows have this output.\n  Found:    {url}" in capsys.readouterr().out
    (video,) = (home / "videos").glob("*.mkv")
    assert (home / "bucket" / "a.mkv").read_bytes() == video.read_bytes()
    assert [*(home / "bucket" / "hallo3_jobs" / "log").iterdir()]
