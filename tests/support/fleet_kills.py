"""``hallo3 batch`` on two workers, which are killed at random moments, and so is their driver."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from conftest import REPOSITORY
from support.audio_samples import tone, write_wav

WORKERS = "spawn_main", "ray::Actor"
"""What is in the command line of a worker's process, but not in those of its helpers."""


def write_rows(folder: Path, rows: int) -> Path:
    """A table of rows of one or two segments, with few distinct recordings."""
    for number in range(5):
        write_wav(folder / f"s{number}.wav", tone(16000, 0.3 + 0.15 * number), 16000)
    portrait, table = REPOSITORY / "samples" / "portrait.png", folder / "rows.csv"
    lines = [f"{portrait},s{number % 5}.wav,{number}" for number in range(rows)]
    table.write_text("\n".join(["portrait,speech,seed", *lines]))
    return table


def start(table: Path, model: Path, output: Path, threads: int, *words: str) -> subprocess.Popen[bytes]:
    options = ["--model", str(model), "--whole-picture", "--steps", "1", "-o", str(output), *words]
    env = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HOME": str(table.parent),
        "PYTHONPATH": str(REPOSITORY),
    }
    sink = (table.parent / "log.txt").open("ab")
    with sink:
        return subprocess.Popen(
            [sys.executable, "-m", "hallo3", "batch", str(table), *options], env=env, stdout=sink, stderr=sink
        )


def kill_fleet(
    folder: Path, model: Path, words: list[str], *, rows: int, kills: int, driver_kills: int, seed: int
) -> dict[str, float]:
    """Kill until the numbers are reached, run to the end, compare with a serial run; returns counts.

    No segment that was committed is ever written again.
    """
    table, draw, started = write_rows(folder, rows), random.Random(seed), time.monotonic()
    assert start(table, model, folder / "serial", 1).wait() == 0, (folder / "log.txt").read_text()[-3000:]
    truth, serial = _videos(folder / "serial"), time.monotonic() - started
    assert len(truth) == rows
    output, killed, drivers, runs, code = folder / "fleet", 0, 0, 0, None
    threads = 1 if "--ray" in words else 2  # processes divide them among the two workers
    committed, pause = dict[Path, tuple[int, int]](), serial / rows
    while code != 0:
        driver, runs, born = start(table, model, output, threads, *words), runs + 1, time.monotonic()
        while (code := driver.poll()) is None:
            time.sleep(draw.uniform(0.1, 2 * pause))
            for path, status in _segments(output):
                assert committed.setdefault(path, status) == status, f"{path} was written twice"
            victims = [*_workers(driver.pid)]
            if drivers < driver_kills and killed >= (drivers + 1) * kills // (driver_kills + 1):
                driver.kill()
                drivers += 1
            elif killed < kills and victims and time.monotonic() - born > 2 * pause:
                draw.choice(victims).kill()
                killed += 1
        assert code in (0, 1, 2, -9), code
        assert runs < 5 + 2 * driver_kills, (folder / "log.txt").read_text()[-3000:]
    assert _videos(output) == truth
    counts = {"rows": rows, "workers killed": killed, "drivers killed": drivers, "runs": runs}
    return counts | {"segments": len(committed), "seconds": round(time.monotonic() - started, 1)}


def _workers(driver: int) -> Iterator[psutil.Process]:
    try:
        for child in psutil.Process(driver).children(recursive=True):
            if any(each in " ".join(child.cmdline()) for each in WORKERS):
                yield child
    except psutil.Error:
        return


def _videos(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


def _segments(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    for path in folder.glob("hallo3_jobs/*/segments/*.safetensors"):
        status = path.stat()
        yield path, (status.st_ino, status.st_mtime_ns)
