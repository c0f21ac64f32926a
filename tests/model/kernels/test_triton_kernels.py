"""The Triton programs without a GPU: run by Triton's interpreter, and compiled for cards that are not
there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ALONE = Path(__file__).parents[2] / "support" / "triton_alone.py"
REQUIRED = os.environ.get("REQUIRE_TRITON") == "1"
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None and not REQUIRED, reason="Triton is not installed: make test-kernels"
)


def run_alone(what: str) -> dict[str, float]:
    root = str(ALONE.parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    if what == "interpret":
        environment["TRITON_INTERPRET"] = "1"
    words = [sys.executable, str(ALONE), what]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_program_computes_what_torch_computes() -> None:
    """float32 within a few of its roundings (sums in another order), float16 within one and a bit."""
    far = run_alone("interpret")
    assert len(far) == 24
    assert [name for name, value in far.items() if not value <= (20 if "float32" in name else 1.01)] == []


def test_every_program_becomes_machine_code() -> None:
    """For cards from Turing to Blackwell, by the assembler that comes with Triton."""
    sizes = run_alone("compile")
    assert len(sizes) == 18
    assert all(size > 1000 for size in sizes.values())
