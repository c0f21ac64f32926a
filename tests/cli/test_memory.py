"""``--vram``: a plan is shown, contradictions are refused, and the limit is enforced."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hallo3.checkpoints import locate
from hallo3.cli import animate, memory
from hallo3.cli import request as requests
from hallo3.cli.main import main
from hallo3.cli.request import AnimateRequest
from hallo3.errors import InputError
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import KernelChoice
from hallo3.offload import system_memory
from hallo3.offload.budget import CONTEXT_BYTES
from hallo3.offload.estimate import DEVICE
from hallo3.units import GB
from support.messages import expect_message
from support.resume_runs import Command, frames_of


@pytest.fixture
def command(command: Command) -> Command:
    command.speak(0.72)
    return command


def plan_memory(command: Command, *flags: str) -> AnimateRequest:
    return memory.plan_run_memory(replace(command.request(*flags), device=torch.device("cuda")))


def test_a_plan_is_shown_without_a_gpu(command: Command) -> None:
    text = command.stdout("--plan", "--vram", "6")
    assert "6.0 GB" in text
    assert "decode" in text
    plan = json.loads(command.stdout("--plan", "--vram", "6.5", "--json"))["vram"]
    assert plan["ceiling"] == 6_500_000_000
    assert [stage["name"] for stage in plan["stages"]][-1] == "decode"
    assert "vram" not in json.loads(command.stdout("--plan", "--json"))


def test_invalid_limits_are_refused(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    for flags, error in (
        ("6", "no GPU whose memory could be limited"),
        ("6 --plan --low-memory", "--vram and --low-memory"),
        ("6 --plan --offload disk", "--vram and --offload disk"),
        ("auto --offload none", "--vram and --offload none"),
        ("auto --plan", "--vram auto on the device cpu"),
        ("0 --plan", "memory limit is invalid"),
        ("nan --plan", "memory limit is invalid"),
        ("0.4 --plan", "does not fit"),
    ):
        assert error in command.stderr("--vram", *flags.split(), code=2)
    with pytest.raises(SystemExit):
        command("--vram", "much")
    assert "neither a number of GB nor auto" in capfd.readouterr().err


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A CUDA device of 12 GB, 9 of them free, and its kernels."""
    state: dict[str, Any] = {"kernels": KernelChoice(FUSED)}
    monkeypatch.setattr(memory, "total_bytes", lambda _: 12 * GB)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 9 * GB)
    monkeypatch.setattr(requests, "choose_kernels", lambda *_: state["kernels"])
    return state


@pytest.mark.usefixtures("gpu")
def test_a_limit_is_planned_for(command: Command) -> None:
    limited = plan_memory(command, "--vram", "6")
    assert limited.memory.limit == 6 * GB
    unlimited = replace(command.request(), device=torch.device("cuda"))
    assert limited.throughput_key != unlimited.throughput_key
    assert limited.memory.torch_limit == 6 * GB - CONTEXT_BYTES
    with pytest.raises(InputError, match="less memory than --vram"):
        plan_memory(command, "--vram", "13")
    with expect_message(r"--vram 10 is more than the 9\.0 GB"):
        lowered = plan_memory(command, "--vram", "10")
    assert lowered.memory.limit == 9 * GB


@pytest.mark.usefixtures("gpu")
def test_the_default_plans_for_free_memory(command: Command) -> None:
    free = plan_memory(command)
    assert (free.memory.limit, free.memory.offload.home) == (9 * GB, DEVICE)
    for manual in (["--offload", "blocks"], ["--low-memory"]):
        assert plan_memory(command, *manual).memory is None
    assert memory.plan_run_memory(command.request()).memory is None


def test_a_plan_is_for_the_kernels_that_run(command: Command, gpu: dict[str, Any]) -> None:
    """Plain kernels need more memory than fused ones."""
    fused = plan_memory(command)
    gpu["kernels"] = KernelChoice(PLAIN, "no compiler")
    plain = plan_memory(command)
    assert plain.memory.stage("sample").activations > fused.memory.stage("sample").activations
    gpu["kernels"] = None
    assert plain.kernels[1] == "no compiler", "the planned run does not try them again"
    assert plan_memory(command, "--plan").kernels, "nor does a plan try them"


def test_a_plan_is_shown_if_the_gpu_is_full(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limit_bytes", lambda request: round((request.options.vram or 0.4) * GB))
    text = command.stdout("--plan")
    assert [part for part in ("segments", "does not fit", "Fix: allow more") if part not in text] == []
    assert "does not fit" in json.loads(command.stdout("--plan", "--json"))["refused"]
    assert command("--plan", "--vram", "0.4") == 2


def test_a_finished_video_needs_no_gpu(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: AnimateRequest) -> AnimateRequest:
        raise InputError("The run does not fit.")

    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert command() == 2, "there is something to render"
    assert command("--fresh") == 2
    assert not list(command.jobs.glob("*.old-*")), "a refused run sets nothing aside"
    monkeypatch.setattr(animate, "plan_run_memory", memory.plan_run_memory)
    assert command() == 0
    monkeypatch.setattr(animate, "plan_run_memory", refuse)
    assert "already rendered" in command.stderr()
    assert command("--redo", "1") == 2
    assert command(save_identity=command.video.with_name("i.safetensors")) == 2


def test_a_large_model_is_planned_for_ram(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "LARGE_BYTES", 0)
    text = command.stdout("--plan")
    assert "RAM for this run" in text
    assert "of weights before the first step, at" in text
    assert command() == 0
    frames = frames_of(command.video)
    for flags in (["--offload", "disk"], ["--low-memory"], ["--offload", "blocks"]):
        assert command(*flags, "--fresh") == 0
        assert np.array_equal(frames_of(command.video), frames)
    monkeypatch.setattr(requests, "ram_bytes", lambda: GB // 2)
    monkeypatch.setattr(system_memory, "ram_bytes", lambda *_: GB // 2)
    assert "computing in bf16: fp32 needs more than the 500 MB of RAM" in command.stderr("--plan")
    monkeypatch.setattr(memory, "available_bytes", lambda: GB // 2)
    monkeypatch.setattr(requests, "verify_component", None)  # refused before anything is read
    for flags, fix in (([], "try --trial"), (["--low-memory"], "remove --offload and --low-memory")):
        refusal = command.stderr(*flags, "--dtype", "fp32", code=2)
        assert "does not fit the memory of this computer" in refusal
        assert fix in refusal


def test_fp8_is_not_made_on_every_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "LARGE_BYTES", 0)
    assert "--dtype fp8, then --model" in command.stderr("--offload", "disk", "--dtype", "fp8", code=2)
    folder = command.video.with_name("fp8")
    assert main(["convert", command.inputs["--model"], str(folder), "--dtype", "fp8"]) == 0
    assert command("--offload", "disk", "--dtype", "fp8", model=folder) == 0
