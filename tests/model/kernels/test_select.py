"""Fused kernels are chosen where their self-test passes, and nowhere else."""

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
def test_names_on_the_cpu(name: str, expected: str) -> None:
    """Fused kernels are slow there and chosen only by name."""
    assert choose_kernels(name, CPU).kernels.name == expected
    assert choose_kernels(name, CPU).reason == ""


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="Unknown kernels") as raised:
        choose_kernels("fast", CPU)
    assert all(name in str(raised.value) for name in NAMES)


def test_without_triton_a_gpu_runs_plain_kernels_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    chosen = choose_kernels("auto", CUDA)
    assert chosen.kernels.name == "plain"
    assert "Triton" in chosen.reason
    with pytest.raises(InputError, match="cannot run here") as raised:
        choose_kernels("fused", CUDA)
    assert "Triton is not installed" in str(raised.value)


KINDS = "adaln_modulate", "qk_norm_rope", "linear_concat", "gated_residual", "linear_gelu"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_wrong_results_are_not_chosen(kind: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(fused.FUSED, kind)
    monkeypatch.setattr(fused.FUSED, kind, lambda *a: right(*a) + value, raising=False)
    assert "away from torch's own" in why_unsupported(CPU, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_they_are_tested_in_the_type_of_the_run(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes, right = list[torch.dtype](), fused.FUSED.gated_residual

    def gated_residual(x: Tensor, *rest: Tensor) -> Tensor:
        dtypes.append(x.dtype)
        return right(x, *rest)

    monkeypatch.setattr(fused.FUSED, "gated_residual", gated_residual, raising=False)
    assert why_unsupported(CPU, dtype) == ""
    assert dtypes == [dtype]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("full"), ""),
        (TypeError("a mistake of ours"), ""),
        (RuntimeError("no compiler\nand a long story"), "RuntimeError: no compiler"),
    ],
)
def test_only_a_failing_compiler_is_a_reason(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Tensor:
        raise error

    monkeypatch.setattr(fused.FUSED, "gated_residual", fail, raising=False)
    if reason:
        assert why_unsupported(CPU, torch.bfloat16) == reason
    else:
        with pytest.raises(type(error)):
            why_unsupported(CPU, torch.bfloat16)
