"""A checkpoint of 5 GB with a tensor of 2.4 GB converts in half a gigabyte. ``make soak``."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cpu import anonymous_bytes
from conftest import REPOSITORY
from hallo3.config import NANO, AudioConfig, to_dict
from soak.machine import keep
from support.original_checkpoints import write_plain
from support.own_process import run_alone

pytestmark = pytest.mark.soak
LIMIT_MB = 500


def measure_peak(words: list[str]) -> tuple[float, float]:
    """Peak anonymous memory in MiB and seconds of a command."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, anonymous_bytes(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0
    return most / 2**20, time.perf_counter() - started


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps")
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, dtype: str) -> None:
    figures: dict[str, float] = {}
    for size, layers in (("small", 2), ("large", 20)):
        folder = tmp_path / size
        source, words = folder / "mp_rank_00_model_states.pt", ["-m", "hallo3", "convert"]
        writing = f"write_checkpoint({str(source)!r}, {layers}, {size == 'large'})"
        run_alone("soak.test_large_checkpoint", writing, 600)
        peak, seconds = measure_peak([*words, str(source), str(folder / "out"), "--dtype", dtype])
        figures |= {
            f"{size}_gigabytes": round(source.stat().st_size / 1e9, 2),
            f"{size}_peak_anonymous_mb": round(peak),
            f"{size}_seconds": round(seconds, 1),
        }
        shutil.rmtree(folder)  # pytest keeps folders, and these are large
    keep("soak_convert.json", figures, dtype)
    assert figures["large_gigabytes"] >= 4
    assert figures["large_peak_anonymous_mb"] <= LIMIT_MB
    assert figures["large_peak_anonymous_mb"] - figures["small_peak_anonymous_mb"] <= 100


def write_checkpoint(place: str, layers: int, with_largest: bool) -> None:
    """with_largest adds the released audio projection, 2.4 GB."""
    trunk = replace(NANO.trunk, layers=layers, heads=20, head_dim=64, time_dim=512)
    audio, path = AudioConfig() if with_largest else NANO.audio, Path(place)
    config = replace(NANO, trunk=trunk, audio=audio)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(to_dict(config)))
    write_plain(path, config)
