"""``hallo3 batch`` on workers that are killed at random moments, and so are their drivers."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from conftest import REPOSITORY
from support.audio_samples import tone, write_wav

WORKERS = "spawn_main", "ray::Actor"
"""What is in the command line of a worker's process, but not in those of its helpers."""
COMMITS = "commits.txt"
MOMENTS = 0.95
"""Of the rows: nothing happens later."""


def write_rows(folder: Path, rows: int, bucket: str = "") -> Path:
    """A table of rows of one or two segments, with few distinct recordings."""
    for number in range(5):
        write_wav(folder / f"s{number}.wav", tone(16000, 0.3 + 0.15 * number), 16000)
    portrait, table = REPOSITORY / "samples" / "portrait.png", folder / "rows.csv"
    outputs = [f"{bucket}{number:05}.mp4" if bucket else "" for number in range(rows)]
    lines = [f"{portrait},s{number % 5}.wav,{number},{output}" for number, output in enumerate(outputs)]
    table.write_text("\n".join(["portrait,speech,seed,output", *lines]))
    return table


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A computer: ``videos`` and jobs in a folder of its own."""

    table: Path
    model: Path
    videos: Path
    threads: int
    words: tuple[str, ...] = ()
    settings: Mapping[str, str] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--model", str(self.model), "--whole-picture", "--steps", "1", "-o", str(self.videos)]
        paths = [REPOSITORY / "tests" / "support" / "every_process", REPOSITORY]
        known = {"OMP_NUM_THREADS": str(self.threads), "HOME": str(self.table.parent)}
        known |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), **(self.settings or {})}
        command = [sys.executable, "-m", "hallo3", "batch", str(self.table), *options, *self.words]
        with self.log.open("ab") as sink:
            return subprocess.Popen(command, env=os.environ | known, stdout=sink, stderr=sink)

    @property
    def log(self) -> Path:
        return self.table.parent / f"{self.videos.name}.txt"

    def run(self) -> None:
        """To the end, undisturbed."""
        assert self.start().wait() == 0, self.log.read_text(errors="replace")[-3000:]


def read_videos(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


class Disturbance:
    """Runs ``machines`` until each has said that all rows are videos, and does ``harms`` (how often each) at
    random moments, spread over the rows that ``count_done`` counts."""

    def __init__(
        self,
        machines: list[Machine],
        rows: int,
        count_done: Callable[[], int],
        harms: Mapping[str, tuple[int, Callable[["Disturbance"], bool]]],
        *,
        seed: int,
        row_seconds: float,
    ) -> None:
        self.machines, self.draw, self.runs, self.codes = machines, random.Random(seed), 0, Counter[int]()
        self._count, self._row_seconds = count_done, row_seconds
        self._harms = {name: harm for name, (_, harm) in harms.items()}
        self._due = [name for name, (number, _) in harms.items() for _ in range(number)]
        self.draw.shuffle(self._due)
        self._moments = sorted(self.draw.uniform(0, MOMENTS * rows) for _ in self._due)
        self.drivers = dict[int, subprocess.Popen[bytes]]()
        self.did, self._segments = Counter[str](), dict[Path, tuple[int, int]]()

    def run(self) -> dict[str, float]:
        """Counts. No segment that was committed is ever written again."""
        started, over = time.monotonic(), set[int]()
        while len(over) < len(self.machines):
            for number, machine in enumerate(self.machines):
                driver = self.drivers.get(number)
                if number in over or (driver is not None and driver.poll() is None):
                    continue
                if driver is not None:
                    self.codes[driver.returncode] += 1
                    assert driver.returncode in (0, 1, 2, -signal.SIGKILL, -signal.SIGINT, 130), machine.log
                    if driver.returncode == 0 and not self._due:
                        over.add(number)
                        continue
                self.drivers[number], self.runs = machine.start(), self.runs + 1
            time.sleep(self.draw.uniform(0.01, 2 * self._row_seconds))
            self._look()
            while self._due and self._count() >= self._moments[-len(self._due)]:
                if not self._harms[self._due[-1]](self):
                    break
                self.did[self._due.pop()] += 1
        _wait_for_orphans(self.machines[0].table.parent)
        seconds = round(time.monotonic() - started, 1)
        return {**self.did, "runs": self.runs, "segments": len(self._segments), "seconds": seconds}

    def workers(self) -> list[psutil.Process]:
        return [worker for driver in self.drivers.values() for worker in _workers(driver.pid)]

    def _look(self) -> None:
        for machine in self.machines:
            for path in machine.videos.glob("hallo3_jobs/*/segments/*.safetensors"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    now = status.st_ino, status.st_mtime_ns
                    assert self._segments.setdefault(path, now) == now, f"{path} was written twice"


def kill_worker(fleet: Disturbance) -> bool:
    if not (victims := fleet.workers()):
        return False
    fleet.draw.choice(victims).kill()
    return True


def kill_driver(fleet: Disturbance) -> bool:
    driver = fleet.draw.choice([*fleet.drivers.values()])
    if driver.poll() is not None:
        return False
    driver.kill()
    driver.wait()
    return True


def pause_worker(seconds: float) -> Callable[[Disturbance], bool]:
    """A worker that stands still, and finishes its row late."""

    def pause(fleet: Disturbance) -> bool:
        if not (victims := fleet.workers()):
            return False
        victim = fleet.draw.choice(victims)
        with suppress(psutil.Error):
            victim.suspend()
            time.sleep(seconds)
            victim.resume()
        return True

    return pause


def check_commits(path: Path) -> int:
    """How many segments were committed, each once."""
    lines = path.read_text().splitlines()
    assert [line for line in lines if "again" in line] == []
    assert [name for name, number in Counter(lines).items() if number > 1] == []
    return len(lines)


def _workers(driver: int) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        for child in psutil.Process(driver).children(recursive=True):
            if any(each in " ".join(child.cmdline()) for each in WORKERS):
                yield child


def _wait_for_orphans(home: Path) -> None:
    """Workers end soon after the driver that died."""
    until = time.monotonic() + 20
    while found := [*_processes_in(home)]:
        assert time.monotonic() < until, found
        time.sleep(0.1)


def _processes_in(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("HOME") == str(home):
                yield process
