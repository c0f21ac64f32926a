"""comfy-cli, with its own home directory, so that it neither reads nor changes the user's settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from comfyui.host import comfy_command


def comfy(folder: Path, *words: str) -> str:
    """What comfy-cli says, run in a folder. Fails the test when it is missing or does not succeed."""
    command = comfy_command()
    if command is None:
        pytest.fail("comfy-cli is not installed")
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [command, "--skip-prompt", *words],
        cwd=folder,
        env={**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
