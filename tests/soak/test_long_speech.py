"""Ten minutes of speech: time and memory a segment stay where they were. ``make soak``."""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

import pytest
from torch import Tensor

from conftest import REPOSITORY, speech_of
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.settings import settings_for

pytestmark = pytest.mark.soak
SECONDS = 600


def resident_mb() -> float:
    """Memory in use now (Linux), or the peak so far elsewhere."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    scale = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def test_ten_minutes(nano: Models, portrait: Tensor) -> None:
    speech, chosen = speech_of(16000 * SECONDS), settings_for(nano.config.defaults)
    made, times, memory, frames = animate(portrait, speech, "", nano, chosen), [], [], 0
    start = time.perf_counter()
    while piece := list(islice(made, 1)):
        frames += len(piece[0].pixels)
        times.append(time.perf_counter() - start)
        memory.append(resident_mb())
        start = time.perf_counter()
    tenth = len(times) // 10
    figures = {
        "speech_seconds": SECONDS,
        "segments": len(times),
        "frames": frames,
        "median_seconds_second_tenth": median(times[tenth : 2 * tenth]),
        "median_seconds_last_tenth": median(times[-tenth:]),
        "memory_mb_after_second_tenth": memory[2 * tenth],
        "memory_mb_at_end": memory[-1],
    }
    (REPOSITORY / "docs/measurements/soak_long_speech.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    assert frames == SECONDS * 25
    assert memory[-1] - memory[2 * tenth] < 32
    assert figures["median_seconds_last_tenth"] < 1.5 * figures["median_seconds_second_tenth"]
