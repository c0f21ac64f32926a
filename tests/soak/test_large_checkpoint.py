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

pytestmark = pytest.mark.soak
LIMIT_MB = 500

GENERATE = """
import json, sys
from pathlib import Path
from support.original_checkpoints import write_plain
from hallo3.config import Hallo3Config, from_dict
write_plain(Path(sys.argv[2]), from_dict(Hallo3Config, json.loads(sys.argv[1]), "sizes"))
"""


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
        write_checkpoint(source, layers, size == "large")
        peak, seconds = measure_peak([*words, str(source), str(folder / "out"), "--dtype", dtype])
        figures |= {
            f"{size}_gigabytes": round(source.stat().st_size / 1e9, 2),
            f"{size}_peak_anonymous_mb": round(peak),
            f"{size}_seconds": round(seconds, 1),
        }
        shutil.rmtree(folder)  # pytest keeps folders, and these are large
    results = REPOSITORY / "docs/measurements/soak_convert.json"
    figures_before = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**figures_before, dtype: figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    assert figures["large_gigabytes"] >= 4
    assert figures["large_peak_anonymous_mb"] <= LIMIT_MB
    assert figures["large_peak_anonymous_mb"] - figures["small_peak_anonymous_mb"] <= 100


def write_checkpoint(path: Path, layers: int, with_largest: bool) -> None:
    """Write a checkpoint in a subprocess; with_largest adds the released audio projection, 2.4 GB."""
    trunk = replace(NANO.trunk, layers=layers, heads=20, head_dim=64, time_dim=512)
    audio = AudioConfig() if with_largest else NANO.audio
    config = to_dict(replace(NANO, trunk=trunk, audio=audio))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(config))
    words = [sys.executable, "-c", GENERATE, json.dumps(config), str(path)]
    subprocess.run(words, check=True, cwd=REPOSITORY / "tests", timeout=600)
