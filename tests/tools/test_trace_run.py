"""How much of the package one command runs stays within bounds (``tools/trace_run.py``)."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

MAX_FILES, MAX_FILES_FINISHED_JOB, MAX_DEPTH = 73, 38, 11
"""A change that lowers a count lowers its bound."""


def test_a_run_stays_within_its_bounds(tmp_path: Path) -> None:
    words = [sys.executable, "tools/trace_run.py", "--json", str(tmp_path / "trace.json")]
    environment = os.environ | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert trace["files run"] <= MAX_FILES
    assert trace["files run, job finished"] <= MAX_FILES_FINISHED_JOB
    assert 0 < trace["depth of the transformer"] <= MAX_DEPTH
    assert trace["slow imports"] == []
    assert list(trace["weight files opened"].values()) == [1] * 5
