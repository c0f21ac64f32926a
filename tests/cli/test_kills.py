"""Killed at random moments, the command loses nothing (200 times in tests/soak)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import REPOSITORY
from support.audio_samples import tone, write_wav


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_twenty_kills_lose_nothing(tmp_path: Path, nano_folder: Path) -> None:
    picture = torch.linspace(0, 255, 80 * 64 * 3).reshape(80, 64, 3).to(torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "p.png")
    write_wav(tmp_path / "s.wav", tone(16000, 2.9), 16000)
    inputs = [str(nano_folder), str(tmp_path / "p.png"), str(tmp_path / "s.wav"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "support" / "kill_process.py"), *inputs, "20", "1"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'kills': 20" in done.stdout
