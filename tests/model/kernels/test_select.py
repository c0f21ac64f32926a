"""Fused kernels are chosen where their self-test passes, and nowhere else."""

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from hallo3.errors import InputError
from hallo3.model.kernels import fused
from hallo3.model.kernels import select as choice
from hallo3.model.kernels.select import NAMES, choose_kernels, why_unsupported

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_names_on_the_cpu() -> None:
    """Fused kernels are slow there and chosen only by name. An unknown one is refused with the known ones."""
    for name, expected in (("auto", "plain"), ("plain", "plain"), ("fused", "fused")):
        chosen = choose_kernels(name, CPU)
        assert (chosen.kernels.name, chosen.reason) == (expected, "")
    with pytest.raises(InputError, match="Unknown kernels") as raised:
        choose_kernels("fast", CPU)
    assert all(name in str(raised.value) for name in NAMES)


def test_without_triton_a_gpu_runs_plain_kernels_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    chosen = choose_kernels("auto", CUDA)
    assert chosen.kernels.name == "plain"
    assert "Triton" in chosen.reason
    with pytest.raises(InputError, match=r"cannot run here(.|\n)*Triton is not installed"):
        choose_kernels("fused", CUDA)


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


def test_only_a_failing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = RuntimeError("no compiler\nand a long story")
    failing = Mock(side_effect=[compiler, torch.OutOfMemoryError("full"), TypeError("a mistake of ours")])
    monkeypatch.setattr(fused.FUSED, "gated_residual", failing, raising=False)
    assert why_unsupported(CPU, torch.bfloat16) == "RuntimeError: no compiler"
    for error in (torch.OutOfMemoryError, TypeError):
        with pytest.raises(error):
            why_unsupported(CPU, torch.bfloat16)
