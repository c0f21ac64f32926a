"""``hallo3 animate`` in a process of its own that watches its memory, its open files and its commits.

Linux only. The peak counts from when everything that every run imports is there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hallo3.cli.main import main
from hallo3.jobs.job import Job
from hallo3.jobs.segment_file import SegmentRecord

EVERY = 0.1
"""Seconds between looks at the open files."""
HERE = Path("/proc/self")


def memory_mb(name: str) -> float:
    """A figure of this process: VmRSS, or VmHWM, its largest since the last ``start_again``."""
    rows = (HERE / "status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(name + ":")) / 1024


def start_again() -> None:
    """Have VmHWM count from now."""
    (HERE / "clear_refs").write_text("5")


class Watched:
    """What is seen while the command runs."""

    def __init__(self) -> None:
        self.commits: list[float] = []
        self.computed: list[float] = []
        self.open: list[tuple[int, int]] = []
        self.peaks: list[tuple[int, float]] = []
        self._over = threading.Event()

    def __enter__(self) -> Watched:
        threading.Thread(target=self._look, daemon=True).start()
        real = Job.commit

        def commit(job: Job, index: int, tensors: Mapping[str, Any], **said: Any) -> SegmentRecord:
            if not index % 100 or index == 1:
                self.peaks.append((index, memory_mb("VmHWM")))
            begun = time.perf_counter()
            record = real(job, index, tensors, **said)
            self.commits.append(time.perf_counter() - begun)
            self.computed.append(time.process_time())
            return record

        Job.commit = commit
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self) -> None:
        """Open files, by how many segments are finished: one of them is the listing itself."""
        while not self._over.wait(EVERY):
            self.open.append((len(self.commits), sum(1 for _ in (HERE / "fd").iterdir()) - 1))


def watch(arguments: list[str]) -> dict[str, Any]:
    """Run the command; what was seen."""
    import_module("hallo3.cli.animate")  # which the command would do now
    before = memory_mb("VmRSS")
    start_again()
    begun = time.perf_counter()
    with Watched() as watched:
        code = main(["animate", *arguments])
    return {
        "code": code,
        "seconds": time.perf_counter() - begun,
        "memory_mb_at_start": before,
        "peak_mb": memory_mb("VmHWM"),
        "peaks": watched.peaks,
        "commits": watched.commits,
        "computed": watched.computed,
        "open": watched.open,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(watch(sys.argv[2:])))
