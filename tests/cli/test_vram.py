"""``--vram``: a plan is shown, contradictions are refused, and a ceiling is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli import vram
from hallo3.cli.arguments import parser
from hallo3.cli.main import main
from hallo3.cli.request import Request, read_request
from hallo3.errors import InputError
from hallo3.memory import ceilings as under
from hallo3.memory.plan import CONTEXT, GB
from hallo3.memory.stages import DEVICE
from sounds import RATE, tone, write_wav


@pytest.fixture
def words(tmp_path: Path, nano_folder: Path, samples: Path) -> list[str]:
    speech = write_wav(tmp_path / "s.wav", tone(RATE, 0.72), RATE)
    given = ["animate", "--portrait", str(samples / "portrait.png"), "--speech", str(speech)]
    return [*given, "--model", str(nano_folder), "-o", str(tmp_path / "out.mp4")]


def request(words: list[str], device: str = "cpu", *more: str) -> Request:
    return replace(read_request(parser().parse_args([*words, *more])), device=torch.device(device))


def test_a_plan_is_shown_without_a_gpu(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--plan", "--vram", "6"]) == 0
    text = capsys.readouterr().out
    assert "of the GPU's memory at most 6.0 GB" in text
    assert "decode" in text
    assert main([*words, "--plan", "--vram", "6.5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["vram"]
    assert plan["ceiling"] == 6_500_000_000
    assert [stage["name"] for stage in plan["stages"]][-1] == "decode"
    assert main([*words, "--plan", "--json"]) == 0
    assert "vram" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vram", "6"], "no ceiling to keep"),
        (["--vram", "6", "--plan", "--low-memory"], "--vram and --low-memory"),
        (["--vram", "6", "--plan", "--offload", "disk"], "--vram and --offload disk"),
        (["--vram", "auto", "--offload", "none"], "--vram and --offload none"),
        (["--vram", "auto", "--plan"], "no GPU whose free memory"),
        (["--vram", "0", "--plan"], "cannot be a ceiling"),
        (["--vram", "nan", "--plan"], "cannot be a ceiling"),
        (["--vram", "0.4", "--plan"], "does not fit into so much"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    words: list[str], flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *flags]) == 2
    assert said in capsys.readouterr().err


def test_what_is_no_number_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--vram", "much"])
    assert "neither a number of GB nor auto" in capsys.readouterr().err


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A CUDA device of 12 GB, 9 of them free, that notes how much torch may take."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(vram, "total_bytes", lambda _: 12 * GB)
    monkeypatch.setattr(vram, "free_bytes", lambda _: 9 * GB)
    monkeypatch.setattr(vram, "keep_under", lambda promised, _: told.update(kept=promised))
    return told


def test_a_ceiling_is_kept_on_a_gpu(words: list[str], card: dict[str, Any]) -> None:
    asked = vram.planned(request(words, "cuda", "--vram", "6"))
    assert asked.memory is not None
    assert asked.memory.ceiling == 6 * GB
    vram.keep_ceiling(asked)
    assert card["kept"] == 6 * GB - CONTEXT
    with pytest.raises(InputError, match="less memory than that"):
        vram.planned(request(words, "cuda", "--vram", "13"))


def test_what_is_free_is_used_where_nothing_is_asked(words: list[str], card: dict[str, Any]) -> None:
    free = vram.planned(request(words, "cuda"))
    assert free.memory is not None
    assert (free.memory.ceiling, free.memory.arrangement.home) == (9 * GB, DEVICE)
    vram.keep_ceiling(free)
    assert not card, "what was not promised need not be kept"
    for by_hand in (["--offload", "blocks"], ["--low-memory"]):
        assert vram.planned(request(words, "cuda", *by_hand)).memory is None
    assert vram.planned(request(words)).memory is None


@pytest.mark.usefixtures("card")
def test_runs_under_other_plans_have_another_pace(words: list[str]) -> None:
    asked = vram.planned(request(words, "cuda", "--vram", "6"))
    assert asked.kind != request(words, "cuda").kind


def test_the_doctor_knows_the_usual_cards() -> None:
    lines = under.ceilings(6 * GB, 64 * GB)
    assert lines[0].startswith("this card, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {size}" for size in under.CEILINGS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    assert "does not fit" in under.ceilings(3 * GB, 64 * GB)[0]
    assert len(under.ceilings(0, 64 * GB)) == len(under.CEILINGS)
