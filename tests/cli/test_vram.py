"""``--vram``: a plan is shown, contradictions are refused, and a ceiling is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3 import doctor as under
from hallo3.cli import animate, renderer, vram
from hallo3.cli import request as cli_request
from hallo3.cli.main import main, parse
from hallo3.cli.request import AnimateRequest, read_request
from hallo3.errors import InputError
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import KernelChoice
from hallo3.offload.budget import CONTEXT, GB
from hallo3.offload.estimate import DEVICE
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message


@pytest.fixture
def words(tmp_path: Path, nano_folder: Path, samples: Path) -> list[str]:
    speech = write_wav(tmp_path / "s.wav", tone(RATE, 0.72), RATE)
    given = ["animate", "--portrait", str(samples / "portrait.png"), "--speech", str(speech)]
    return [*given, "--model", str(nano_folder), "-o", str(tmp_path / "out.mp4")]


def request(words: list[str], device: str = "cpu", *more: str) -> AnimateRequest:
    return replace(read_request(parse([*words, *more])[1]), device=torch.device(device))


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
        (["--vram", "6"], "no GPU whose memory could be limited"),
        (["--vram", "6", "--plan", "--low-memory"], "--vram and --low-memory"),
        (["--vram", "6", "--plan", "--offload", "disk"], "--vram and --offload disk"),
        (["--vram", "auto", "--offload", "none"], "--vram and --offload none"),
        (["--vram", "auto", "--plan"], "no GPU whose memory could be limited"),
        (["--vram", "0", "--plan"], "memory limit is invalid"),
        (["--vram", "nan", "--plan"], "memory limit is invalid"),
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
    monkeypatch.setattr(cli_request, "choose_kernels", lambda *_: told.get("kernels", KernelChoice(FUSED)))
    return told


def test_a_ceiling_is_kept_on_a_gpu(words: list[str], card: dict[str, Any]) -> None:
    asked = vram.plan_run_memory(request(words, "cuda", "--vram", "6"))
    assert asked.memory is not None
    assert asked.memory.ceiling == 6 * GB
    vram.limit_gpu_memory(asked)
    assert card["kept"] == 6 * GB - CONTEXT
    with pytest.raises(InputError, match="less memory than --vram"):
        vram.plan_run_memory(request(words, "cuda", "--vram", "13"))


def test_what_is_free_is_used_where_nothing_is_asked(words: list[str], card: dict[str, Any]) -> None:
    free = vram.plan_run_memory(request(words, "cuda"))
    assert free.memory is not None
    assert (free.memory.ceiling, free.memory.arrangement.home) == (9 * GB, DEVICE)
    vram.limit_gpu_memory(free)
    assert card["kept"] == 12 * GB, "what was not promised need not be kept, nor what was before"
    for by_hand in (["--offload", "blocks"], ["--low-memory"]):
        assert vram.plan_run_memory(request(words, "cuda", *by_hand)).memory is None
    assert vram.plan_run_memory(request(words)).memory is None


@pytest.mark.usefixtures("card")
def test_a_ceiling_above_what_is_free_is_told_and_lowered(words: list[str]) -> None:
    with expect_message(r"--vram 10 is more than the 9\.0 GB"):
        asked = vram.plan_run_memory(request(words, "cuda", "--vram", "10"))
    assert asked.memory is not None
    assert asked.memory.ceiling == 9 * GB


def test_a_plan_is_for_the_kernels_that_run(words: list[str], card: dict[str, Any]) -> None:
    """Where fused ones are expected and do not work, plain ones need more; they are tried once."""
    fused = vram.plan_run_memory(request(words, "cuda"))
    card["kernels"] = KernelChoice(PLAIN, "no compiler")
    plain = vram.plan_run_memory(request(words, "cuda"))
    assert fused.memory is not None
    assert plain.memory is not None
    assert plain.memory.stage("sample").activations > fused.memory.stage("sample").activations
    assert plain.kernels == card["kernels"]
    shown = vram.plan_run_memory(request(words, "cuda", "--plan"))
    assert shown.kernels is not card["kernels"], "the self-test compiles; a plan does not wait for it"


@pytest.mark.usefixtures("card")
def test_what_was_tried_is_what_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object) -> KernelChoice:
        raise AssertionError("tried twice")

    found = vram.plan_run_memory(request(words, "cuda"))
    monkeypatch.setattr(cli_request, "choose_kernels", again)
    loaded: dict[str, Any] = {}
    monkeypatch.setattr(renderer, "load_models", lambda *_, **given: loaded.update(given) or _stop())
    networks = renderer.RunNetworks(found, tmp_path, "")
    with pytest.raises(KeyboardInterrupt):
        _ = networks.identity
    assert loaded["kernels"] is FUSED


def _stop() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that others have filled, as far as a request on the CPU can see."""
    monkeypatch.setattr(vram, "_ceiling", lambda asked: round((asked.options.vram or 0.4) * GB))


@pytest.mark.usefixtures("full")
def test_a_plan_is_shown_where_the_gpu_is_full(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--plan"]) == 0
    text = capsys.readouterr().out
    assert "segments" in text
    assert "The run does not fit into so much of the GPU's memory. Fix: allow more" in text
    assert main([*words, "--plan", "--json"]) == 0
    assert "does not fit" in json.loads(capsys.readouterr().out)["refused"]
    assert main([*words, "--plan", "--vram", "0.4"]) == 2


def test_a_finished_video_needs_no_gpu(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: AnimateRequest) -> AnimateRequest:
        raise InputError("The run does not fit.")

    real = vram.plan_run_memory
    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert main(words) == 2, "there is something to render"
    assert main([*words, "--fresh"]) == 2
    assert not list(tmp_jobs(words).glob("*.old-*")), "nothing is put aside by what is refused"
    monkeypatch.setattr(animate, "plan_run_memory", real)
    assert main(words) == 0
    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert main(words) == 0
    assert "already rendered; reusing them" in capsys.readouterr().err
    assert main([*words, "--redo", "1"]) == 2
    assert main([*words, "--save-identity", str(tmp_jobs(words).parent / "i.safetensors")]) == 2


def tmp_jobs(words: list[str]) -> Path:
    return Path(words[-1]).parent / "hallo3_jobs"


@pytest.mark.usefixtures("card")
def test_runs_under_other_plans_have_another_pace(words: list[str]) -> None:
    asked = vram.plan_run_memory(request(words, "cuda", "--vram", "6"))
    assert asked.throughput_key != request(words, "cuda").throughput_key


def test_the_doctor_knows_the_usual_cards() -> None:
    lines = under.ceilings(6 * GB, 64 * GB)
    assert lines[0].startswith("this card, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {size}" for size in under.CEILINGS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    assert "does not fit" in under.ceilings(3 * GB, 64 * GB)[0]
    assert len(under.ceilings(0, 64 * GB)) == len(under.CEILINGS)
