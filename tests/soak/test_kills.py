"""Killed two hundred times at random moments, the command loses nothing. ``make soak``."""

import os
import time
from pathlib import Path

import pytest

from soak.machine import keep
from support.kill_process import run_kills

pytestmark = pytest.mark.soak
KILLS, SEED = 200, 20


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_two_hundred_kills_lose_nothing(tmp_path: Path, nano_folder: Path) -> None:
    started = time.monotonic()
    counts = run_kills(tmp_path, nano_folder, kills=KILLS, seed=SEED)
    keep("soak_kills.json", {"seed": SEED, **counts, "seconds": round(time.monotonic() - started, 1)})
    assert counts["kills"] == KILLS
