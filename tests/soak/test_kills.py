"""Killed two hundred times at random moments, the command loses nothing. ``make soak``."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import REPOSITORY
from soak.machine import keep
from support.audio_samples import tone, write_wav

pytestmark = pytest.mark.soak
KILLS, SEED = 200, 20


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_two_hundred_kills_lose_nothing(tmp_path: Path, nano_folder: Path) -> None:
    picture = torch.linspace(0, 255, 80 * 64 * 3).reshape(80, 64, 3).to(torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "p.png")
    write_wav(tmp_path / "s.wav", tone(16000, 2.9), 16000)
    inputs = [str(nano_folder), str(tmp_path / "p.png"), str(tmp_path / "s.wav"), str(tmp_path)]
    begun = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "tests" / "support" / "kill_process.py"),
            *inputs,
            str(KILLS),
            str(SEED),
        ],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = ast.literal_eval(done.stdout.splitlines()[-1])
    keep("soak_kills.json", {"seed": SEED, **counts, "seconds": round(time.monotonic() - begun, 1)})
    assert counts["kills"] == KILLS
