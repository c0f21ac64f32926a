"""An hour of speech through the whole command needs no more than a minute does. ``make soak``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.jobs.segment_file import read_note
from hallo3.noise import make_generator
from soak.machine import keep
from support.audio_samples import RATE

pytestmark = pytest.mark.soak
SEED, STEPS, FPS = 7, 2, 25
LENGTHS = {"minute": 60, "hour": 3600}
MORE_MB = 32
SLOWER, LATER_COMMITS, COMMIT_MS = 1.05, 1.2, 50


def write_speech(path: Path, seconds: int) -> Path:
    """Noise that swells and falls, a second at a time."""
    drawn = make_generator(f"{SEED}|hour")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for second in range(seconds):
            loud = 0.05 + 0.1 * abs(np.sin(second))
            samples = drawn.standard_normal(RATE).clip(-3, 3) * loud * 32767
            file.writeframes(samples.astype("<i2").tobytes())
    return path


def watched(folder: Path, model: Path, seconds: int) -> dict[str, Any]:
    """Animate so much speech in a fresh process; what was seen, with the seconds of every segment."""
    folder.mkdir()
    seen, video = folder / "seen.json", folder / "v.mp4"
    speech = write_speech(folder / "s.wav", seconds)
    picture = np.random.default_rng(SEED).integers(0, 255, (80, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "p.png")
    words = ["--model", model, "--portrait", folder / "p.png", "--speech", speech, "-o", video]
    subprocess.run(
        [sys.executable, REPOSITORY / "tests/soak/watched.py", seen, *words, "--steps", str(STEPS)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
        | {"HOME": str(folder)},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    found = json.loads(seen.read_text())
    notes = [read_note(path) for path in sorted(folder.glob("hallo3_jobs/*/segments/*.safetensors"))]
    return {**found, "segments": [note[0].seconds for note in notes if note is not None]}


def frames_in(video: Path) -> int:
    """Packets of the picture, every one a frame."""
    with av.open(str(video)) as container:
        return sum(bool(packet.size) for packet in container.demux(container.streams.video[0]))


def tenths(values: list[float], of: Callable[[list[float]], float] = median) -> dict[str, float]:
    """The median of all, of the second tenth, and of the last; or what else is asked ``of`` them."""
    tenth = len(values) // 10
    return {
        "all": of(values),
        "second tenth": of(values[tenth : 2 * tenth]),
        "last tenth": of(values[-tenth:]),
    }


def open_files(seen: dict[str, Any]) -> dict[str, int]:
    """How many are open most of the time in the second and the last tenth, and at most in each."""
    total = len(seen["segments"])
    parts = {"second tenth": (total // 10, total // 5), "last tenth": (total - total // 10, total - 1)}
    found: dict[str, int] = {}
    for name, (first, last) in parts.items():
        counts = [count for done, count in seen["open"] if first <= done <= last]
        found |= {name: Counter(counts).most_common(1)[0][0], f"most in the {name}": max(counts)}
    return found


def figures_of(seen: dict[str, Any], video: Path) -> dict[str, Any]:
    """What is kept of a run."""
    first = next(peak for index, peak in seen["peaks"] if not index)
    return {
        "frames": frames_in(video),
        "segments": len(seen["segments"]),
        "seconds": seen["seconds"],
        "memory_mb_at_start": seen["memory_mb_at_start"],
        "peak_mb_before_first_commit": first,
        "peak_mb_before_last_hundred": seen["peaks"][-1][1],
        "peak_mb": seen["peak_mb"],
        "median_segment_seconds": tenths(seen["segments"]),
        "median_segment_cpu_seconds": tenths([b - a for a, b in pairwise(seen["computed"])]),
        "least_segment_seconds": tenths(seen["segments"], min),
        "median_commit_ms": {name: 1000 * value for name, value in tenths(seen["commits"]).items()},
        "open_files": open_files(seen),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_an_hour_needs_no_more_than_a_minute(tmp_path: Path) -> None:
    model = tmp_path / "nano"
    model.mkdir()
    write_random_set(model, SEED, "nano")
    runs = {name: watched(tmp_path / name, model, seconds) for name, seconds in LENGTHS.items()}
    found = {name: figures_of(seen, tmp_path / name / "v.mp4") for name, seen in runs.items()}
    keep("soak_hour.json", {"seed": SEED, "steps": STEPS, **found})
    hour, minute = found["hour"], found["minute"]
    assert [runs[name]["code"] for name in runs] == [0, 0]
    assert hour["frames"] == LENGTHS["hour"] * FPS
    assert minute["frames"] == LENGTHS["minute"] * FPS
    assert hour["peak_mb"] - minute["peak_mb"] <= MORE_MB
    pace, commits, files = hour["median_segment_seconds"], hour["median_commit_ms"], hour["open_files"]
    assert pace["last tenth"] <= SLOWER * pace["second tenth"]
    assert commits["all"] <= COMMIT_MS
    assert commits["last tenth"] <= LATER_COMMITS * commits["second tenth"]
    assert files["last tenth"] == files["second tenth"]
    assert files["most in the last tenth"] <= files["most in the second tenth"] + 1
