"""An hour of speech through the whole command needs no more than a minute does. ``make soak``."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.cpu import write_speech
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.cli.main import main
from hallo3.jobs.job import Job
from hallo3.jobs.segment_file import SegmentRecord, read_note
from soak.machine import keep
from support.own_process import ON_LINUX, memory_mb, reset_peak, run_alone

pytestmark = pytest.mark.soak
SEED, STEPS, FPS = 7, 2, 25
LENGTHS = {"minute": 60, "hour": 3600}
MAX_MORE_MB = 32
MAX_SLOWER, MAX_SLOWER_COMMIT, MAX_COMMIT_MS = 1.05, 1.2, 50
SAMPLING_SECONDS = 0.1


def watch(words: list[str]) -> dict[str, Any]:
    """``hallo3 animate``: its memory (the peak counts from after the imports), open files and commits."""
    import hallo3.cli.animate  # noqa: F401, which the command imports late

    commits, open_files, peaks = list[float](), list[tuple[int, int]](), list[tuple[int, float]]()
    real_commit, stop = Job.commit, threading.Event()

    def commit(job: Job, index: int, tensors: Mapping[str, Any], **options: Any) -> SegmentRecord:
        if index % 100 == 0:
            peaks.append((index, memory_mb("VmHWM")))
        started = time.perf_counter()
        record = real_commit(job, index, tensors, **options)
        commits.append(time.perf_counter() - started)
        return record

    def count_open_files() -> None:
        while not stop.wait(SAMPLING_SECONDS):  # one of them is the listing itself
            open_files.append((len(commits), sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1))

    before = reset_peak()
    Job.commit = commit
    threading.Thread(target=count_open_files, daemon=True).start()
    started = time.perf_counter()
    code = main(["animate", *words])
    stop.set()
    figures = {"code": code, "seconds": time.perf_counter() - started, "memory_mb_at_start": before}
    return figures | {"peak_mb": memory_mb("VmHWM"), "peaks": peaks, "commits": commits, "open": open_files}


def animate(folder: Path, model: Path, seconds: int) -> dict[str, Any]:
    """Figures of a run in a process of its own, and the seconds of every segment."""
    folder.mkdir()
    picture = np.random.default_rng(SEED).integers(0, 255, (80, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "p.png")
    write_speech(folder / "s.wav", seconds * FPS)
    words = ["--model", model, "--portrait", folder / "p.png", "--speech", folder / "s.wav"]
    words = [str(word) for word in (*words, "-o", folder / "v.mp4", "--steps", STEPS)]
    figures = run_alone("soak.test_hour", f"watch({words!r})", None, HOME=str(folder))
    notes = [read_note(path) for path in sorted(folder.glob("hallo3_jobs/*/segments/*.safetensors"))]
    return figures | {"segments": [note[0].seconds for note in notes if note is not None]}


def tenths(values: list[float]) -> dict[str, float]:
    """The median of all, of the second tenth, and of the last."""
    tenth = len(values) // 10
    parts = {"all": values, "second tenth": values[tenth : 2 * tenth], "last tenth": values[-tenth:]}
    return {name: median(part) for name, part in parts.items()}


def count_open_files(run: dict[str, Any]) -> dict[str, int]:
    """The most frequent and the largest number in the second and the last tenth."""
    total, counts = len(run["segments"]), dict[str, int]()
    parts = {"second tenth": (total // 10, total // 5), "last tenth": (total - total // 10, total - 1)}
    for name, (first, last) in parts.items():
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


@ON_LINUX
def test_an_hour_needs_no_more_than_a_minute(tmp_path: Path) -> None:
    model = tmp_path / "nano"
    model.mkdir()
    write_random_set(model, SEED, "nano")
    runs = {name: animate(tmp_path / name, model, seconds) for name, seconds in LENGTHS.items()}
    figures = {name: summarize(run, tmp_path / name / "v.mp4") for name, run in runs.items()}
    keep("soak_hour.json", {"seed": SEED, "steps": STEPS, **figures})
    assert [run["code"] for run in runs.values()] == [0, 0]
    assert all(figures[name]["frames"] == seconds * FPS for name, seconds in LENGTHS.items())
    hour = figures["hour"]
    assert hour["peak_mb"] - figures["minute"]["peak_mb"] <= MAX_MORE_MB
    segments, commits, files = hour["median_segment_seconds"], hour["median_commit_ms"], hour["open_files"]
    assert segments["last tenth"] <= MAX_SLOWER * segments["second tenth"]
    assert commits["all"] <= MAX_COMMIT_MS
    assert commits["last tenth"] <= MAX_SLOWER_COMMIT * commits["second tenth"]
    assert files["last tenth"] == files["second tenth"]
    assert files["most in the last tenth"] <= files["most in the second tenth"] + 1
