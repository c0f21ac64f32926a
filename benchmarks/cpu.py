"""Times on this computer's CPU, with random NANO weights.

``cpu``: seconds and CPU-seconds of the command with the built-in model; seconds of a NANO segment (2 steps,
guidance on), and torch's own small 3D convolutions against oneDNN's.

``length``: ``hallo3 animate`` in a process of its own for every length of speech, from reading the recording
to joining the video. Seconds are fitted to a + b * segments, and so are CPU-seconds, which other programs
disturb less; memory is the peak of the process's anonymous memory (Linux only). The slope says nothing about
the released model; that it is a line does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import wave
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import correlation, linear_regression
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.report import CPU, ROOT, Result, Scenario, format_table
from benchmarks.streamed import Clock
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.config import BUILT_IN, NANO
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.media.image import write_picture
from hallo3.noise import make_generator
from hallo3.pipeline import animate
from hallo3.settings import settings_for
from hallo3.vae.causal_conv import OneDNNConvolutions

SHAPES = ((8, 4, 6, 6), (8, 10, 18, 18), (16, 11, 34, 34), (16, 11, 66, 98), (32, 11, 66, 98))
"""Padded inputs of the small VAEs' convolutions: channels, frames, height, width."""


def measure_segment(count: int = 20) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        config = write_random_set(Path(folder), 0, "nano")
        models = load_models(Path(folder), CPU, "fp32")
        frames = (count + 1) * config.segment.new_frames
        speech = Recording(torch.sin(torch.arange(frames * 640) / 30)[None], 16000)
        segments = animate(torch.rand(3, 64, 64), speech, "", models, settings_for(config.defaults))
        row = Clock(device=CPU, count=count, warm=1).measure(lambda: next(segments))
    return {"median": row["seconds"], "min": row["least"], "max": row["most"]}


def measure_convolutions() -> list[dict[str, Any]]:
    """3 x 3 x 3 convolutions of one clip, torch's choice against oneDNN."""
    rows, clock = list[dict[str, Any]](), Clock(device=CPU, count=10, warm=1)
    for channels, *extent in SHAPES:
        tensors = torch.randn(1, channels, *extent), torch.randn(channels, channels, 3, 3, 3)
        args = (*tensors, None, (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
        row = {"input": [channels, *extent]}
        for name, context in (("torch_ms", nullcontext()), ("onednn_ms", OneDNNConvolutions())):
            with context:
                row[name] = 1e3 * clock.measure(lambda args=args: torch.conv3d(*args))["seconds"]
        rows.append(row)
    return rows


def measure_cpu(_: Namespace) -> Result:
    commands = {f"{seconds} s of video": measure_command(seconds) for seconds in VIDEOS}
    networks = {"nano_segment_seconds": measure_segment(), "convolutions": measure_convolutions()}
    return {"built_in_command": commands, **networks}


VIDEOS = (1, 10)
"""Seconds."""
SHORT, LENGTHS = (4, 16, 60), (4, 16, 60, 240)
SEED = 7
MIN_R2 = 0.999
"""Of a line, if nothing else runs."""
CLOCKS = ("seconds", "cpu_seconds")
"""By the clock, and of all threads; not every system has the second."""
MEMORY_INTERVAL = 0.1
"""Seconds."""


class Fit(NamedTuple):
    """Seconds = ``start`` + ``each`` * segments; ``r2`` is the share of their spread that this explains."""

    start: float
    each: float
    r2: float


def fit_line(segments: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Least squares."""
    line = linear_regression(segments, seconds)
    return Fit(line.intercept, line.slope, correlation(segments, seconds) ** 2)


def write_speech(path: Path, frames: int) -> None:
    """Noise of changing loudness, as long as ``frames`` of video."""
    fps, rate, random = NANO.segment.fps, NANO.segment.sample_rate, make_generator(f"{SEED}|length")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        for second in range(-(-frames // fps)):
            count = min(frames - second * fps, fps) * rate // fps
            loud = (0.05 + 0.1 * abs(np.sin(second))) * 32767
            file.writeframes((random.standard_normal(count).clip(-3, 3) * loud).astype("<i2").tobytes())


def anonymous_bytes(process: int) -> int:
    """Memory of a process that no file backs; 0 if unknown."""
    try:
        rows = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("Anonymous:")), 0)


def measure_length(folder: Path, segments: int) -> dict[str, Any]:
    """Seconds of the command, of all its threads, and its peak memory. Raises ``CalledProcessError``."""
    there = folder / f"{segments}"
    there.mkdir()
    write_speech(there / "speech.wav", segments * NANO.segment.new_frames)
    words = ["--model", folder / "model", "--portrait", folder / "portrait.png"]
    return {"segments": segments, **run_animate(there, *words)}


def measure_command(seconds: int) -> dict[str, Any]:
    """The built-in model's video of this length, with a prompt, as ``make demo`` makes it."""
    with TemporaryDirectory(prefix="hallo3_") as name:
        write_speech(Path(name) / "speech.wav", seconds * BUILT_IN.segment.fps)
        portrait = ROOT / "samples" / "portrait.png"
        return run_animate(Path(name), "--portrait", portrait, "--prompt", "A person talks to the camera.")


def run_animate(there: Path, *words: Path | str) -> dict[str, Any]:
    """Seconds of ``hallo3 animate`` for the speech in a folder, of all its threads, and its peak memory."""
    words = ("-m", "hallo3", "animate", *words, "--speech", there / "speech.wav")
    words += "-o", there / "video.mp4", "--device", "cpu"
    peak, start, before = 0, time.perf_counter(), os.times()
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(there)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(MEMORY_INTERVAL)
    seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "hallo3 animate")
    cpu = after[2] - before[2] + after[3] - before[3]  # of processes that have ended, user and system
    row: dict[str, Any] = {"seconds": seconds}
    row |= {"cpu_seconds": cpu} if cpu else {}
    return row | ({"anonymous_mb": peak / 1e6} if peak else {})


def measure_lengths(lengths: Sequence[int]) -> dict[str, Any]:
    """Every length, shortest first, and the line through them."""
    with TemporaryDirectory(prefix="hallo3_") as name:
        folder = Path(name)
        write_random_set(folder / "model", SEED, "nano")
        picture = make_generator(f"{SEED}|portrait").random((3, 80, 64), dtype="float32")
        write_picture(torch.from_numpy(picture), folder / "portrait.png")
        rows = [measure_length(folder, segments) for segments in sorted(set(lengths))]
    result: Result = {"sizes": {"config": NANO.name, "steps": NANO.defaults.steps}, "lengths": rows}
    if len(rows) > 1:
        for name in CLOCKS if "cpu_seconds" in rows[0] else CLOCKS[:1]:
            line = fit_line([row["segments"] for row in rows], [row[name] for row in rows])
            result[f"{name} = start + each * segments"] = line._asdict()
    if all("anonymous_mb" in row for row in rows):
        result["mb_more_than_the_shortest"] = rows[-1]["anonymous_mb"] - rows[0]["anonymous_mb"]
    return result


def line_r2(result: Result) -> float:
    """r^2 of CPU-seconds, or of seconds if the system has no others; 0 without a line."""
    lines = [result.get(f"{name} = start + each * segments") for name in CLOCKS]
    return next((line["r2"] for line in reversed(lines) if line), 0.0)


def measure_length_options(options: Namespace) -> Result:
    lengths = options.segments or (SHORT if options.short else LENGTHS)
    hour = 3600 * NANO.segment.fps // NANO.segment.new_frames
    return measure_lengths([*lengths, *[hour] * options.long])


def show_length(result: Result, options: Namespace) -> None:
    print(format_table({f"{row['segments']} segments": row for row in result["lengths"]}, "length"))
    for name in CLOCKS:
        if line := result.get(f"{name} = start + each * segments"):
            print(f"{name} = {line['start']:.3g} + {line['each']:.3g} * segments, r^2 {line['r2']:.5f}")
    if "mb_more_than_the_shortest" in result:
        print(f"the longest held {result['mb_more_than_the_shortest']:.1f} MB more than the shortest")
    if options.strict and line_r2(result) <= MIN_R2:
        sys.exit(f"r^2 is not above {MIN_R2}")


def add_length_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--segments", type=int, nargs="+", metavar="N", help=f"lengths (default: {LENGTHS})")
    add("--short", action="store_true", help=f"only {SHORT}")
    add("--long", action="store_true", help="also an hour of speech")
    add("--strict", action="store_true", help=f"fail if r^2 of CPU-seconds is not above {MIN_R2}")


CPU_TIMES = Scenario(measure=measure_cpu)
LENGTH = Scenario(measure=measure_length_options, add_options=add_length_options, show=show_length)
