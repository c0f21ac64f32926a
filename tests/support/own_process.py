"""Calls in a process of their own, and the memory that they take."""

import ast
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")


def run_alone(module: str, call: str) -> Any:
    """What a call in a test module returns: numbers."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", f"from {module} import *; print({call})"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return ast.literal_eval(done.stdout)


@contextmanager
def measure_growth() -> Generator[list[float]]:
    """Gets how much more memory the process held at the block's peak than before it, in MB."""

    def read(name: str) -> float:
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(name))

    growth: list[float] = []
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    yield growth
    growth.append(read("VmHWM") - before)
