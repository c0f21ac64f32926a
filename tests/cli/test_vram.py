"""``--vram``: a plan is shown, contradictions are refused, and the limit is enforced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli import animate, vram
from hallo3.cli import request as requests
from hallo3.cli.main import main, parse
from hallo3.cli.request import AnimateRequest, read_request
from hallo3.errors import InputError
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import KernelChoice
from hallo3.offload.budget import CONTEXT_BYTES
from hallo3.offload.estimate import DEVICE
from hallo3.units import GB
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message


@pytest.fixture
def words(tmp_path: Path, nano_folder: Path, samples: Path) -> list[str]:
    speech = write_wav(tmp_path / "s.wav", tone(RATE, 0.72), RATE)
    inputs = ["animate", "--portrait", str(samples / "portrait.png"), "--speech", str(speech)]
    return [*inputs, "--model", str(nano_folder), "-o", str(tmp_path / "out.mp4")]


def request(words: list[str], device: str = "cpu", *more: str) -> AnimateRequest:
    return replace(read_request(parse([*words, *more])[1]), device=torch.device(device))


def test_a_plan_is_shown_without_a_gpu(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--plan", "--vram", "6"]) == 0
    text = capsys.readouterr().out
    assert "6.0 GB" in text
    assert "decode" in text
    assert main([*words, "--plan", "--vram", "6.5", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["vram"]
    assert plan["ceiling"] == 6_500_000_000
    assert [stage["name"] for stage in plan["stages"]][-1] == "decode"
    assert main([*words, "--plan", "--json"]) == 0
    assert "vram" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--vram", "6"], "no GPU whose memory could be limited"),
        (["--vram", "6", "--plan", "--low-memory"], "--vram and --low-memory"),
        (["--vram", "6", "--plan", "--offload", "disk"], "--vram and --offload disk"),
        (["--vram", "auto", "--offload", "none"], "--vram and --offload none"),
        (["--vram", "auto", "--plan"], "--vram auto on the device cpu"),
        (["--vram", "0", "--plan"], "memory limit is invalid"),
        (["--vram", "nan", "--plan"], "memory limit is invalid"),
        (["--vram", "0.4", "--plan"], "does not fit"),
    ],
)
def test_invalid_limits_are_refused(
    words: list[str], flags: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *flags]) == 2
    assert error in capsys.readouterr().err


def test_a_limit_that_is_no_number_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--vram", "much"])
    assert "neither a number of GB nor auto" in capsys.readouterr().err


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A CUDA device of 12 GB, 9 of them free: its kernels, and the ``limit`` that torch gets."""
    state: dict[str, Any] = {"kernels": KernelChoice(FUSED)}
    monkeypatch.setattr(vram, "total_bytes", lambda _: 12 * GB)
    monkeypatch.setattr(vram, "free_bytes", lambda _: 9 * GB)
    monkeypatch.setattr(vram, "limit_torch", lambda limit, _: state.update(limit=limit))
    monkeypatch.setattr(requests, "choose_kernels", lambda *_: state["kernels"])
    return state


def test_a_limit_is_planned_for_and_enforced(words: list[str], gpu: dict[str, Any]) -> None:
    limited = vram.plan_run_memory(request(words, "cuda", "--vram", "6"))
    assert limited.memory is not None
    assert limited.memory.limit == 6 * GB
    assert limited.throughput_key != request(words, "cuda").throughput_key
    vram.limit_gpu_memory(limited)
    assert gpu["limit"] == 6 * GB - CONTEXT_BYTES
    with pytest.raises(InputError, match="less memory than --vram"):
        vram.plan_run_memory(request(words, "cuda", "--vram", "13"))
    with expect_message(r"--vram 10 is more than the 9\.0 GB"):
        lowered = vram.plan_run_memory(request(words, "cuda", "--vram", "10"))
    assert lowered.memory is not None
    assert lowered.memory.limit == 9 * GB


def test_the_default_plans_for_free_memory_and_enforces_nothing(
    words: list[str], gpu: dict[str, Any]
) -> None:
    free = vram.plan_run_memory(request(words, "cuda"))
    assert free.memory is not None
    assert (free.memory.limit, free.memory.offload.home) == (9 * GB, DEVICE)
    vram.limit_gpu_memory(free)
    assert gpu["limit"] == 12 * GB
    for manual in (["--offload", "blocks"], ["--low-memory"]):
        assert vram.plan_run_memory(request(words, "cuda", *manual)).memory is None
    assert vram.plan_run_memory(request(words)).memory is None


def test_a_plan_is_for_the_kernels_that_run(words: list[str], gpu: dict[str, Any]) -> None:
    """Plain kernels need more memory than fused ones."""
    fused = vram.plan_run_memory(request(words, "cuda"))
    gpu["kernels"] = KernelChoice(PLAIN, "no compiler")
    plain = vram.plan_run_memory(request(words, "cuda"))
    assert fused.memory is not None
    assert plain.memory is not None
    assert plain.memory.stage("sample").activations > fused.memory.stage("sample").activations
    gpu["kernels"] = None
    assert plain.kernels[1] == "no compiler", "the planned run does not try them again"
    assert vram.plan_run_memory(request(words, "cuda", "--plan")).kernels, "nor does a plan try them"


def test_a_plan_is_shown_if_the_gpu_is_full(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vram, "_limit_bytes", lambda request: round((request.options.vram or 0.4) * GB))
    assert main([*words, "--plan"]) == 0
    text = capsys.readouterr().out
    assert "segments" in text
    assert "does not fit" in text
    assert "Fix: allow more" in text
    assert main([*words, "--plan", "--json"]) == 0
    assert "does not fit" in json.loads(capsys.readouterr().out)["refused"]
    assert main([*words, "--plan", "--vram", "0.4"]) == 2


def test_a_finished_video_needs_no_gpu(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: AnimateRequest) -> AnimateRequest:
        raise InputError("The run does not fit.")

    folder = Path(words[-1]).parent
    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert main(words) == 2, "there is something to render"
    assert main([*words, "--fresh"]) == 2
    assert not list((folder / "hallo3_jobs").glob("*.old-*")), "a refused run sets nothing aside"
    monkeypatch.setattr(animate, "plan_run_memory", vram.plan_run_memory)
    assert main(words) == 0
    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert main(words) == 0
    assert "already rendered" in capsys.readouterr().err
    assert main([*words, "--redo", "1"]) == 2
    assert main([*words, "--save-identity", str(folder / "i.safetensors")]) == 2
