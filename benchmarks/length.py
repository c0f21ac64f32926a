"""What a longer speech costs: ``python -m benchmarks length [--segments N ...] [--long] [--strict]``.

``hallo3 animate`` with a random NANO set, in a process of its own for every length: speech is read and heard,
segments are rendered, kept and encoded, the video is joined. Seconds are fitted to a + b * segments, and so
are CPU-seconds, which other programs disturb less; memory is the most anonymous memory of the process (Linux;
elsewhere it is not measured). Sizes are NANO's: the slope
says nothing about the released model, that it is a line does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.length_chart import draw_length
from benchmarks.report import ROOT, stamped, table, write_json
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.config import NANO
from hallo3.media.image import write_picture
from hallo3.noise import make_generator

SHORT, LENGTHS = (4, 16, 60), (4, 16, 60, 240)
HOUR = 3600
SEED = 7
STRAIGHT = 0.999
"""Of r^2, where nothing else runs."""
CLOCKS = ("seconds", "cpu_seconds")
"""On the wall, and of all threads; not every system tells the second."""
LOOK = 0.1
"""Seconds between looks at the memory."""


class Fit(NamedTuple):
    """Seconds = ``start`` + ``each`` * segments; ``r2`` is the share of their spread that this explains."""

    start: float
    each: float
    r2: float


def fitted(segments: Sequence[float], seconds: Sequence[float]) -> Fit:
    """The line nearest to some times. Raises ``ValueError`` for fewer than two lengths."""
    if len(set(segments)) < 2:
        raise ValueError("a line needs two lengths")
    x, y = np.asarray(segments, dtype=float), np.asarray(seconds, dtype=float)
    each = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    start = float(y.mean() - each * x.mean())
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - start - each * x) ** 2).sum())
    return Fit(start, each, 1 - left / spread if spread else 1.0)


def hour_of_segments() -> int:
    """How many NANO segments an hour of speech is."""
    return HOUR * NANO.segment.fps // NANO.segment.new_frames


def write_speech(path: Path, segments: int) -> None:
    """Noise that swells and falls, as long as so many segments."""
    config = NANO.segment
    left = segments * config.new_frames * config.sample_rate // config.fps
    drawn, second = make_generator(f"{SEED}|length"), 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(config.sample_rate)
        while left:
            count = min(left, config.sample_rate)
            loud = (0.05 + 0.1 * abs(np.sin(second))) * 32767
            file.writeframes((drawn.standard_normal(count).clip(-3, 3) * loud).astype("<i2").tobytes())
            left, second = left - count, second + 1


def anonymous(process: int) -> int:
    """Bytes that a process holds and no file has; 0 where nobody says."""
    try:
        rows = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("Anonymous:")), 0)


def measured(folder: Path, segments: int) -> dict[str, Any]:
    """One length: seconds of the whole command, of all its threads, and the most memory. Raises
    ``CalledProcessError``."""
    there = folder / f"{segments}"
    there.mkdir()
    write_speech(there / "speech.wav", segments)
    inputs = [
        "--model",
        folder / "model",
        "--portrait",
        folder / "portrait.png",
        "--speech",
        there / "speech.wav",
    ]
    words = [sys.executable, "-m", "hallo3", "animate", *inputs, "-o", there / "video.mp4", "--device", "cpu"]
    most, begun, before = 0, time.perf_counter(), os.times()
    with subprocess.Popen(
        list(map(str, words)),
        cwd=ROOT,
        env={**os.environ, "HOME": str(there)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(LOOK)
    seconds, after = time.perf_counter() - begun, os.times()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "hallo3 animate")
    cpu = after[2] - before[2] + after[3] - before[3]  # of processes that have ended, user and system
    row: dict[str, Any] = {"segments": segments, "seconds": seconds}
    row |= {"cpu_seconds": cpu} if cpu else {}
    return row | ({"anonymous_mb": most / 1e6} if most else {})


def grown(lengths: Sequence[int]) -> dict[str, Any]:
    """Every length from the shortest on, and the line through them."""
    with TemporaryDirectory(prefix="hallo3_") as name:
        folder = Path(name)
        write_random_set(folder / "model", SEED, "nano")
        picture = make_generator(f"{SEED}|portrait").random((3, 80, 64), dtype="float32")
        write_picture(torch.from_numpy(picture), folder / "portrait.png")
        rows = [measured(folder, segments) for segments in sorted(set(lengths))]
    found: dict[str, Any] = {"sizes": {"config": NANO.name, "steps": NANO.defaults.steps}, "lengths": rows}
    if len(rows) > 1:
        for name in CLOCKS if "cpu_seconds" in rows[0] else CLOCKS[:1]:
            line = fitted([row["segments"] for row in rows], [row[name] for row in rows])
            found[f"{name} = start + each * segments"] = line._asdict()
    if all("anonymous_mb" in row for row in rows):
        found["mb_more_than_the_shortest"] = rows[-1]["anonymous_mb"] - rows[0]["anonymous_mb"]
    return found


def straightest(found: dict[str, Any]) -> float:
    """r^2 of CPU-seconds, or of seconds where the system tells no others; 0 without a line."""
    lines = [found.get(f"{name} = start + each * segments") for name in CLOCKS]
    return next((line["r2"] for line in reversed(lines) if line), 0.0)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--segments", type=int, nargs="+", metavar="N", help=f"lengths (default: {LENGTHS})")
    add("--short", action="store_true", help=f"only {SHORT}")
    add("--long", action="store_true", help="an hour of speech besides")
    add("--strict", action="store_true", help=f"fail where r^2 of CPU-seconds is not above {STRAIGHT}")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    add("--chart", type=Path, metavar="PNG", help="also draw them")
    options = parser.parse_args()
    lengths = options.segments or (SHORT if options.short else LENGTHS)
    found = stamped(grown([*lengths, *[hour_of_segments()] * options.long]), "length", sys.argv[1:])
    print(table({f"{row['segments']} segments": row for row in found["lengths"]}, "length"))
    line = found.get("seconds = start + each * segments")
    for name in CLOCKS:
        one = found.get(f"{name} = start + each * segments")
        if one:
            print(f"{name} = {one['start']:.3g} + {one['each']:.3g} * segments, r^2 {one['r2']:.5f}")
    if "mb_more_than_the_shortest" in found:
        print(f"the longest held {found['mb_more_than_the_shortest']:.1f} MB more than the shortest")
    if options.json:
        write_json(found, options.json)
    if options.chart:
        write_picture(draw_length(found["lengths"], line), options.chart)
    if options.strict and straightest(found) <= STRAIGHT:
        sys.exit(f"r^2 is not above {STRAIGHT}")


if __name__ == "__main__":
    main()
