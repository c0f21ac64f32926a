"""One writer for a folder: the second is told who the first is; a dead one holds nothing."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .atomic import SYSTEM, System

LOCK, HOLDER = "lock", "holder.json"


@contextmanager
def lock_folder(folder: Path, what: str, system: System = SYSTEM, *, note: bool = True) -> Generator[None]:
    """Keep ``folder``, which is ``what``, for this process while the block lasts. Without ``note`` nobody is
    told who has it, and nothing is written.

    Raises ``OutputError`` with the holder's number if another process has it. The hold ends with the
    process, so that nobody must clear up after a crash. ``OSError`` if the folder cannot be written to.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not system.hold(descriptor):
            raise OutputError(
                f"Another run is working on {what}.",
                found=f"{folder.name}, held by {_holder(folder)}",
                expected="one run at a time",
                fix="wait until it is done, or stop it; what it has finished is kept",
            )
        if os.name != "nt" and not _still_there(descriptor, folder / LOCK):
            raise FileNotFoundError(errno.ENOENT, "it was taken away just now", str(folder))
        if note:
            said = {"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            (folder / HOLDER).write_text(json.dumps(said), encoding="utf-8")
        yield
    finally:
        os.close(descriptor)


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at its place: another may have removed it before it was held."""
    with suppress(OSError):
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    return False


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        said: Any = json.loads((folder / HOLDER).read_text(encoding="utf-8")[:1000])
        return f"process {int(said['process'])} since {said['since']}"
    return "another process"
