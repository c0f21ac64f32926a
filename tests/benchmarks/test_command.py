"""``python -m benchmarks``: names, options, and what every result says of itself."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import report
from conftest import REPOSITORY
from hallo3.config import TINY
from hallo3.media.image import read_picture

FIGURES = {"device", "torch", "python", "hallo3", "threads"}
COUNTS = {"operations", "bytes", "peak"}
SMALLEST: dict[str, dict[str, Any]] = {
    "exactness": {"compared": lambda *_: dict.fromkeys(("original", *_savings()), 0.5)},
    "precision": {"real_inputs": dict, "velocity": lambda *_: torch.ones(2)},
    "mixtures": {"report": lambda: {"floor": {"energy": 0.0}}},
    "approximations": {
        "rows": lambda _: {},
        "REUSES": {},
        "read_cases": lambda *_: [],
        "load_models": lambda *_: SimpleNamespace(config=SimpleNamespace(segment=None)),
    },
    "cpu": {"SHAPES": ((4, 3, 4, 4),), "segment_seconds": lambda: {"median": 1.0}},
}
"""What is put in place of the work in modules that have tests of their own."""


def _savings() -> tuple[str, ...]:
    return tuple(import_module("benchmarks.exactness").SAVINGS)


def run(name: str, *words: object) -> int:
    return command.main([name, *map(str, words)])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_subcommand_writes_what_it_is_and_where_it_ran(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = import_module(f"benchmarks.{command.NAMES[name][0]}")
    for attribute, stand_in in SMALLEST[name].items():
        monkeypatch.setattr(module, attribute, stand_in)
    before = list(sys.argv)
    assert run(name, "--json", tmp_path / "found.json") == 0
    assert sys.argv == before
    found = read(tmp_path / "found.json")
    assert found["machine"].keys() >= FIGURES
    assert found["command"] == f"python -m benchmarks {name} --json FILE"


def test_counts_of_a_small_model_and_their_chart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger = import_module("benchmarks.ledger")
    monkeypatch.setattr(ledger, "HALLO3", TINY)
    assert run("counts", f"--json={tmp_path / 'c.json'}", "--chart", tmp_path / "c.png") == 0
    found = read(tmp_path / "c.json")
    assert found["command"] == "python -m benchmarks counts --json=FILE --chart FILE"
    assert found["steps"]["fused, batched"].keys() >= COUNTS
    assert read_picture(tmp_path / "c.png").shape[2] == 960


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    """The counts that are kept, drawn: the longest bar is the original's, the next our plain kernels'."""
    ledger = import_module("benchmarks.ledger")
    kept = read(REPOSITORY / "docs" / "measurements" / "ledger.json")
    drawn = ledger.cost_chart(kept)
    lengths = [
        int((drawn - torch.tensor(rgb)[:, None, None] / 255).abs().amax(0).lt(0.02).sum(1).max())
        for rgb in ((0x8A, 0x83, 0x78), (0x00, 0x72, 0xB2))
    ]
    moved = kept["steps"]["plain, batched"]["bytes"] / kept["original"]["bytes"]
    assert lengths[1] / lengths[0] == pytest.approx(max(kept["ratio"], moved), abs=0.01)


@pytest.mark.parametrize("name", command.NAMES)
def test_every_name_is_told_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, about = command.NAMES[name]
    assert f"{name:15} {about}" in command.usage()
    if hasattr(import_module(f"benchmarks.{module}"), "main"):
        with pytest.raises(SystemExit) as left:
            run(name, "--help")
        assert left.value.code == 0
        said = capsys.readouterr().out
        assert f"python -m benchmarks {name}" in said
        assert "--json" in said


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("speed") == 2
    assert "There is no 'speed'." in capsys.readouterr().err
    assert command.main([]) == 0
    assert "drift" in capsys.readouterr().out


def test_a_list_of_figures_is_kept_under_the_subcommand_s_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[1, 2]")
    command.stamp(path, "ceilings", ["8"])
    assert read(path)["ceilings"] == [1, 2]
    assert read(path)["command"] == "python -m benchmarks ceilings 8"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "out.json", "--count", "3"], "--json FILE --count 3"),
        (["--model=/home/me/w", "--prompt", "a secret"], "--model=FILE --prompt TEXT"),
        (["--other", "a\\b", "~/c", "d"], "--other FILE FILE d"),
    ],
)
def test_a_command_is_told_without_paths(words: list[str], said: str) -> None:
    assert report.command("x", words) == f"python -m benchmarks x {said}"


def test_results_are_never_written_over(tmp_path: Path) -> None:
    found = {"machine": {"device": "NVIDIA H200, 141GB"}}
    first = report.result_path(found, tmp_path)
    assert first.name.startswith("nvidia-h200-141gb-20")
    first.touch()
    assert report.result_path(found, tmp_path).name == f"{first.stem}-2.json"


def test_a_gpu_is_named_with_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = SimpleNamespace(name="NVIDIA Made Up", major=9, minor=0, total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: seen)
    monkeypatch.setattr(report.shutil, "which", lambda _: None)
    found = report.machine(torch.device("cuda"))
    assert (found["device"], found["capability"], found["device_gb"]) == ("NVIDIA Made Up", "9.0", 80.0)
    assert found["driver"] == "not known"
    assert "cuda" in found


def test_a_table_has_a_column_for_whatever_any_row_says() -> None:
    lines = report.table({"a": {"x": 1.23456}, "long name": {"y": True, "z": None}}, "head").splitlines()
    assert lines[0].split() == ["head", "y", "z", "x"]
    assert lines[1].split() == ["a", "1.235"]
    assert lines[2].split() == ["long", "name", "yes"]
