"""The Triton programs without a GPU: run by Triton's interpreter, and compiled for absent cards."""

import os
from importlib.util import find_spec

import pytest

from support.own_process import run_alone

REQUIRED = os.environ.get("REQUIRE_TRITON") == "1"
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None and not REQUIRED, reason="Triton is not installed: make test-kernels"
)


def test_a_program_computes_what_torch_computes() -> None:
    """float32 within a few of its roundings (sums in another order), float16 within one and a bit."""
    far = run_alone("support.triton_alone", "interpret()", 300, TRITON_INTERPRET="1")
    assert len(far) == 30
    assert [name for name, value in far.items() if not value <= (20 if "float32" in name else 1.01)] == []


def test_every_program_becomes_machine_code() -> None:
    """For cards from Turing to Blackwell, by the assembler that comes with Triton: memory is read and written
    16 bytes at a time, and registers suffice."""
    found = run_alone("support.triton_alone", "compile_kernels()", 300)
    assert len(found) == 24
    assert all(each["code"] > 1000 and each["whole"] >= 4 for each in found.values())
    assert {name: each for name, each in found.items() if each["parts"] or each["spilled"]} == {}
