"""Calls in a process of their own, and the memory that they take."""

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LINUX = sys.platform.startswith("linux")
ON_LINUX = pytest.mark.skipif(not LINUX, reason="peaks are read from /proc")


def run_alone(module: str, call: str, timeout: float | None = 120, **environment: str) -> Any:
    """What a call in a test module returns: plain values."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-c", f"from {module} import *; print({call})"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


class Missing:
    """A hook for imports, in ``sys.meta_path``: these packages are not installed."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".")[0] in self.names:
            raise ImportError(name)


def memory_mb(name: str) -> float:
    """This process' VmRSS, or VmHWM, the largest since the reset; outside Linux the largest ever."""
    if not LINUX:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(name))


def reset_peak() -> float:
    """The memory held now, from which the peak counts."""
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


@contextmanager
def measure_growth() -> Generator[list[float]]:
    """Gets how much more memory the process held at the block's peak than before it, in MB."""
    growth, before = list[float](), reset_peak()
    yield growth
    growth.append(memory_mb("VmHWM") - before)
