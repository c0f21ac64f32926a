"""``python -m benchmarks``: names, options, and the facts in every result."""

import json
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.exactness import SAVINGS
from hallo3.config import TINY
from hallo3.media.image import read_picture

SMALLEST: dict[str, dict[str, Any]] = {
    "exactness": {"measure_errors": lambda *_: dict.fromkeys(("original", *SAVINGS), 0.5)},
    "precision": {"make_inputs": dict, "velocity": lambda *_: torch.ones(2)},
    "mixtures": dict.fromkeys(("compare_samplers", "compare_intervals", "compare_reuses"), lambda *_: {}),
    "approximations": {"render_cases": lambda *_: None, "list_variants": lambda _: {}, "REUSES": {}},
    "cpu": {"SHAPES": ((4, 3, 4, 4),), "VIDEOS": (), "measure_segment": lambda: {"median": 1.0}},
}
"""Stand-ins for the work of modules that have tests of their own."""


def run(name: str, *words: object) -> int:
    return command.main([name, *map(str, words)])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_result_says_how_it_was_made(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = command.SCENARIOS[name][0].partition(".")[0]
    for attribute, stand_in in SMALLEST[name].items():
        monkeypatch.setattr(f"benchmarks.{module}.{attribute}", stand_in)
    assert run(name, "--json", tmp_path / "result.json") == 0
    result = read(tmp_path / "result.json")
    assert result["machine"].keys() >= {"device", "torch", "python", "hallo3", "threads"}
    assert result["command"] == f"python -m benchmarks {name} --json FILE"


def test_counts_of_a_small_model_and_their_chart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.counts.HALLO3", TINY)
    assert run("counts", f"--json={tmp_path / 'c.json'}", "--chart", tmp_path / "c.png") == 0
    result = read(tmp_path / "c.json")
    assert result["command"] == "python -m benchmarks counts --json=FILE --chart FILE"
    assert result["steps"]["fused, batched"].keys() >= {"operations", "bytes", "peak"}
    assert read_picture(tmp_path / "c.png").shape[2] == 960


@pytest.mark.parametrize("name", [n for n, (place, _) in command.SCENARIOS.items() if "comfyui" not in place])
def test_every_name_is_listed_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{name:15} {command.SCENARIOS[name][1]}" in command.usage()
    with pytest.raises(SystemExit, match=r"^0$"):
        run(name, "--help")
    assert re.search(rf"python -m benchmarks {name}(.|\n)*--json", capsys.readouterr().out)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("speed") == 2
    assert "There is no 'speed'." in capsys.readouterr().err
    assert command.main([]) == 0
    assert "drift" in capsys.readouterr().out


def test_a_command_is_shown_without_paths() -> None:
    for words, shown in (
        (["--json", "out.json", "--count", "3"], "--json FILE --count 3"),
        (["--model=/home/me/w", "--prompt", "a secret"], "--model=FILE --prompt TEXT"),
        (["--other", "a\\b", "~/c", "d"], "--other FILE FILE d"),
    ):
        assert report.format_command("x", words) == f"python -m benchmarks x {shown}"


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    result = {"machine": {"device": "NVIDIA H200, 141GB"}}
    first = report.result_path(result, tmp_path)
    assert first.name.startswith("nvidia-h200-141gb-20")
    first.touch()
    assert report.result_path(result, tmp_path).name == f"{first.stem}-2.json"


def test_a_gpu_is_named_with_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="NVIDIA Made Up", major=9, minor=0, total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(report.shutil, "which", lambda _: None)
    expected = {"device": "NVIDIA Made Up", "capability": "9.0", "device_gb": 80.0, "driver": "not known"}
    assert report.describe_machine(torch.device("cuda")).items() >= expected.items()


def test_a_table_has_a_column_for_whatever_any_row_has(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"a": {"x": 1.23456}, "long name": {"y": True, "z": None}}
    lines = [line.split() for line in report.format_table(rows, "head").splitlines()]
    assert lines == [["head", "y", "z", "x"], ["a", "1.235"], ["long", "name", "yes"]]
    report.print_json({"a": 1}, Namespace())
    assert json.loads(capsys.readouterr().out) == {"a": 1}
