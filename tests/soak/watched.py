"""``hallo3 animate`` in a process of its own that records its memory, open files and commits; Linux only.

The peak counts from after the imports.
"""

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

SAMPLING_SECONDS = 0.1
PROC = Path("/proc/self")


def memory_mb(name: str) -> float:
    """VmRSS, or VmHWM, the largest since ``clear_refs``."""
    rows = (PROC / "status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(name + ":")) / 1024


def run(arguments: list[str]) -> dict[str, Any]:
    import_module("hallo3.cli.animate")  # which the command imports late
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
            open_files.append((len(commits), sum(1 for _ in (PROC / "fd").iterdir()) - 1))

    before = memory_mb("VmRSS")
    (PROC / "clear_refs").write_text("5")
    Job.commit = commit
    threading.Thread(target=count_open_files, daemon=True).start()
    started = time.perf_counter()
    code = main(["animate", *arguments])
    stop.set()
    return {
        "code": code,
        "seconds": time.perf_counter() - started,
        "memory_mb_at_start": before,
        "peak_mb": memory_mb("VmHWM"),
        "peaks": peaks,
        "commits": commits,
        "open": open_files,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(run(sys.argv[2:])))
