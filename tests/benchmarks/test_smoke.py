"""The first contact with a GPU, tried on the CPU: it reports what is right and what is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import networks, smoke
from benchmarks.__main__ import main
from benchmarks.report import ROOT
from hallo3.config import NANO
from hallo3.model.kernels.fused import FUSED


def run(tmp_path: Path, *words: str) -> dict[str, Any]:
    path = tmp_path / "smoke.json"
    assert main(["smoke", "--device", "cpu", "--json", str(path), *words]) == 0
    return json.loads(path.read_text())


def test_what_is_wrong_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that is off, and a step that differs; what fails stops no other."""
    monkeypatch.setattr(networks, "SMALL", NANO)
    result = run(tmp_path)
    assert [len(result[part]) for part in smoke.PARTS] == [5, 1, 1, 2]
    assert not [row for part in smoke.PARTS for row in result[part].values() if "failed" in row]
    assert "wrong: nothing" in capsys.readouterr().out
    monkeypatch.setattr(type(FUSED), "linear_gelu", lambda _, linear, x: 1.1 * linear(x))
    monkeypatch.setattr(smoke, "sdpa", lambda q, *_: torch.rand_like(q))
    monkeypatch.setattr(smoke.F, "conv3d", None)
    result = run(tmp_path)
    wrong = capsys.readouterr().out.rpartition("wrong: ")[2]
    for name in ("linear_gelu", "layer-major beside sequential", "3 of 4 blocks", "channels_last_3d"):
        assert name in wrong
    assert all("TypeError" in row["failed"] for row in result["convolutions"].values())
    assert all("left_out" in row for row in run(tmp_path, "--seconds", "1e-9")["kernels"].values())


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_session_s_calls_are_commands(tmp_path: Path) -> None:
    """Every option is one that the command has; a call without time begins nothing."""
    listed = tmp_path / "python"
    listed.write_text(f'#!/bin/sh\nshift 2; echo "$@" >> {tmp_path}/calls\n')
    listed.chmod(0o755)
    script, places = ROOT / "benchmarks/gpu_session.sh", {"PYTHON": str(listed), "OUT": str(tmp_path)}
    for call, count in (("first", 3), ("second", 2)):
        done = subprocess.run(["bash", script, call], env={"PATH": "/usr/bin:/bin", **places}, check=False)
        assert done.returncode == 0
        lines = (tmp_path / "calls").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            name, *words = line.split()
            words[words.index("--device") + 1] = "none"
            with pytest.raises((RuntimeError, SystemExit), match=r"(?i)none|needs a GPU"):
                main([name, *words])
        (tmp_path / "calls").unlink()
