"""An hour of speech through the whole command needs no more than a minute does. ``make soak``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections import Counter
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
MAX_MORE_MB = 32
MAX_SLOWER, MAX_SLOWER_COMMIT, MAX_COMMIT_MS = 1.05, 1.2, 50


def write_speech(path: Path, seconds: int) -> Path:
    """Noise that swells and fades, a second at a time."""
    random = make_generator(f"{SEED}|hour")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for second in range(seconds):
            amplitude = 0.05 + 0.1 * abs(np.sin(second))
            samples = random.standard_normal(RATE).clip(-3, 3) * amplitude * 32767
            file.writeframes(samples.astype("<i2").tobytes())
    return path


def animate(folder: Path, model: Path, seconds: int) -> dict[str, Any]:
    """Figures of a run in a process of its own, by ``watched.py``, and the seconds of every segment."""
    folder.mkdir()
    figures, video = folder / "figures.json", folder / "v.mp4"
    picture = np.random.default_rng(SEED).integers(0, 255, (80, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "p.png")
    speech = write_speech(folder / "s.wav", seconds)
    words = ["--model", model, "--portrait", folder / "p.png", "--speech", speech, "-o", video]
    subprocess.run(
        [sys.executable, REPOSITORY / "tests/soak/watched.py", figures, *words, "--steps", str(STEPS)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
        | {"HOME": str(folder)},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    notes = [read_note(path) for path in sorted(folder.glob("hallo3_jobs/*/segments/*.safetensors"))]
    return json.loads(figures.read_text()) | {
        "segments": [note[0].seconds for note in notes if note is not None]
    }


def tenths(values: list[float]) -> dict[str, float]:
    """The median of all, of the second tenth, and of the last."""
    tenth = len(values) // 10
    parts = {"all": values, "second tenth": values[tenth : 2 * tenth], "last tenth": values[-tenth:]}
    return {name: median(part) for name, part in parts.items()}


def count_open_files(run: dict[str, Any]) -> dict[str, int]:
    """The most frequent and the largest number in the second and the last tenth."""
    total = len(run["segments"])
    counts: dict[str, int] = {}
    for name, first, last in (
        ("second tenth", total // 10, total // 5),
        ("last tenth", total - total // 10, total - 1),
    ):
        files = [files for segments, files in run["open"] if first <= segments <= last]
        counts |= {name: Counter(files).most_common(1)[0][0], f"most in the {name}": max(files)}
    return counts


def summarize(run: dict[str, Any], video: Path) -> dict[str, Any]:
    with av.open(str(video)) as container:
        frames = sum(bool(packet.size) for packet in container.demux(container.streams.video[0]))
    return {
        "frames": frames,
        "segments": len(run["segments"]),
        **{name: run[name] for name in ("seconds", "memory_mb_at_start", "peak_mb")},
        "peak_mb_before_first_commit": run["peaks"][0][1],
        "median_segment_seconds": tenths(run["segments"]),
        "median_commit_ms": tenths([1000 * seconds for seconds in run["commits"]]),
        "open_files": count_open_files(run),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_an_hour_needs_no_more_than_a_minute(tmp_path: Path) -> None:
    model = tmp_path / "nano"
    model.mkdir()
    write_random_set(model, SEED, "nano")
    runs = {name: animate(tmp_path / name, model, seconds) for name, seconds in LENGTHS.items()}
    figures = {name: summarize(run, tmp_path / name / "v.mp4") for name, run in runs.items()}
    keep("soak_hour.json", {"seed": SEED, "steps": STEPS, **figures})
    assert [run["code"] for run in runs.values()] == [0, 0]
    assert {name: figures[name]["frames"] for name in LENGTHS} == {
        name: s * FPS for name, s in LENGTHS.items()
    }
    hour = figures["hour"]
    assert hour["peak_mb"] - figures["minute"]["peak_mb"] <= MAX_MORE_MB
    segments, commits, files = hour["median_segment_seconds"], hour["median_commit_ms"], hour["open_files"]
    assert segments["last tenth"] <= MAX_SLOWER * segments["second tenth"]
    assert commits["all"] <= MAX_COMMIT_MS
    assert commits["last tenth"] <= MAX_SLOWER_COMMIT * commits["second tenth"]
    assert files["last tenth"] == files["second tenth"]
    assert files["most in the last tenth"] <= files["most in the second tenth"] + 1
