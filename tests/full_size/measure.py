"""A command in a process of its own, watched from outside: memory, bytes read, CPU-seconds; Linux."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import REPOSITORY

CGROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # v1, v2
LIMITS = "memory.limit_in_bytes", "memory.max"
WATCHED = {"VmHWM": "status", "RssAnon": "status", "rchar": "io", "read_bytes": "io"}
INTERVAL = 0.05


@dataclass(frozen=True)
class Run:
    """``read_gb`` are read by calls, ``disk_gb`` from the disk; memory is VmHWM and RssAnon."""

    code: int
    output: str
    figures: dict[str, Any]


def number(path: Path, name: str) -> int:
    with suppress(OSError, ProcessLookupError):
        if match := re.search(rf"^{name}:\s+(\d+)", path.read_text(), re.MULTILINE):
            return int(match[1])
    return 0


def limited_group(gigabytes: float) -> Path | None:
    """A new memory control group with a limit, or None where none can be made."""
    for root, limit in zip(CGROUPS, LIMITS, strict=True):
        group = root / f"hallo3_{os.getpid()}_{gigabytes:g}"
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(int(gigabytes * 1e9)))
            return group
    return None


def measure(
    words: list[str], group: Path | None = None, log: Path | None = None, cwd: Path = REPOSITORY, **more: str
) -> Run:
    """Run ``python -m words``, in a memory control group if one is given, with more in the environment."""
    started, most = time.perf_counter(), dict.fromkeys(WATCHED, 0)

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    with (log or Path(os.devnull)).open("w") as file:
        places = {"cwd": cwd, "env": {**os.environ, **more}, "stdout": subprocess.PIPE, "stderr": file}
        process = subprocess.Popen([sys.executable, *words], text=True, preexec_fn=enter, **places)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            for name, table in WATCHED.items():
                most[name] = max(most[name], number(Path(f"/proc/{process.pid}/{table}"), name))
            time.sleep(INTERVAL)
        output, _ = process.communicate()
        process.returncode = os.waitstatus_to_exitcode(status)
    if group is not None:
        with suppress(OSError):
            group.rmdir()
    figures = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(most["VmHWM"] * 1024 / 1e9, 2),
        "peak_anonymous_gb": round(most["RssAnon"] * 1024 / 1e9, 2),
        "read_gb": round(most["rchar"] / 1e9, 2),
        "disk_gb": round(most["read_bytes"] / 1e9, 2),
    }
    return Run(process.returncode, output, figures)
