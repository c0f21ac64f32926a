"""``--kernels``: the same video and the same job, told by name."""

from __future__ import annotations

import numpy as np
import pytest

from cli.test_attention import frames_in, inputs, request_of
from hallo3.cli import request
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.select import KernelChoice
from support.resume_runs import run

__all__ = ["inputs"]


def test_fused_kernels_make_the_same_video(inputs: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(inputs) == 0
    assert "; plain kernels" in capfd.readouterr().err
    wanted = frames_in(inputs["-o"]).astype(int)
    assert run(inputs, "--fresh", kernels="fused") == 0
    assert "; fused kernels" in capfd.readouterr().err
    assert np.abs(frames_in(inputs["-o"]).astype(int) - wanted).max() <= 1


def test_kernels_are_no_part_of_a_job(inputs: dict[str, str]) -> None:
    plain, fused = request_of(inputs), request_of(inputs, "--kernels", "fused")
    assert plain.job_key("") == fused.job_key("")
    assert plain.throughput_key != fused.throughput_key, "they take another time"


def test_why_the_fused_ones_were_not_taken_is_told(
    inputs: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "choose_kernels", lambda *_: KernelChoice(PLAIN, "Triton is not installed"))
    assert run(inputs) == 0
    assert "plain kernels (Triton is not installed)" in capfd.readouterr().err


def test_nothing_is_tried_before_something_is_rendered(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying compiles: a plan, a refusal and a finished job need not wait for it."""
    assert run(inputs) == 0

    def tried(*_: object) -> KernelChoice:
        raise AssertionError("kernels were tried")

    monkeypatch.setattr(request, "choose_kernels", tried)
    assert request_of(inputs, "--plan").kernels.kernels.name == "fused", "planned for a GPU with Triton"
    assert run(inputs) == 0
