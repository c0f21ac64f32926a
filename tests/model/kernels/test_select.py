"""Fused kernels are taken where they are seen to work, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.errors import InputError
from hallo3.model.kernels import fused
from hallo3.model.kernels import select as choice
from hallo3.model.kernels.select import NAMES, choose_kernels, why_unsupported

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("name", "expected"), [("auto", "plain"), ("plain", "plain"), ("fused", "fused")])
def test_by_name_on_the_cpu(name: str, expected: str) -> None:
    """Where nothing compiles them fused kernels are slow, and taken only by name."""
    assert choose_kernels(name, CPU) == choose_kernels(name, CPU)
    assert choose_kernels(name, CPU).kernels.name == expected
    assert choose_kernels(name, CPU).reason == ""


def test_a_name_that_is_none_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="Unknown kernels") as raised:
        choose_kernels("fast", CPU)
    assert all(name in str(raised.value) for name in NAMES)


def test_without_triton_a_gpu_runs_the_plain_ones_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    chosen = choose_kernels("auto", CUDA)
    assert chosen.kernels.name == "plain"
    assert "Triton" in chosen.reason
    with pytest.raises(InputError, match="cannot run here") as raised:
        choose_kernels("fused", CUDA)
    assert "Triton is not installed" in str(raised.value)


KINDS = ("adaln_modulate", "qk_norm_rope", "linear_concat", "gated_residual", "linear_gelu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_kernels_that_compute_something_else_are_not_taken(
    kind: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(fused.FUSED, kind)
    monkeypatch.setattr(fused.FUSED, kind, lambda *a: right(*a) + value, raising=False)
    assert "away from torch's own" in why_unsupported(CPU, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_they_are_tried_in_the_type_that_flows(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    right = fused.FUSED.gated_residual

    def gated_residual(x: Tensor, *rest: Tensor) -> Tensor:
        seen.append(x.dtype)
        return right(x, *rest)

    monkeypatch.setattr(fused.FUSED, "gated_residual", gated_residual, raising=False)
    assert why_unsupported(CPU, dtype) == ""
    assert seen == [dtype]


def test_a_card_that_is_full_is_not_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(fused.FUSED, "gated_residual", full, raising=False)
    with pytest.raises(torch.OutOfMemoryError):
        why_unsupported(CPU, torch.bfloat16)


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(fused.FUSED, "adaln_modulate", broken, raising=False)
    assert why_unsupported(CPU, torch.bfloat16) == "RuntimeError: no compiler"


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> Tensor:
        raise TypeError("a mistake")

    monkeypatch.setattr(fused.FUSED, "adaln_modulate", mistaken, raising=False)
    with pytest.raises(TypeError, match="a mistake"):
        why_unsupported(CPU, torch.bfloat16)
