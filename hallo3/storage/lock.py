"""One writer per folder. The lock ends with the process, however that ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BusyError
from .files import is_plain_file, read_json_or_empty, write_json

LOCK_FILENAME, HOLDER_FILENAME = "lock", "holder.json"


@contextmanager
def lock_folder(folder: Path, subject: str, *, note: bool = True) -> Generator[None]:
    """Lock ``folder`` for this process while the block lasts. With ``note``, the process id is written there.

    Raises ``BusyError`` naming the holder if another process has the lock (on ``subject``), ``OSError`` if
    the folder cannot be written to, or the lock is another file: its bytes would be lost.
    """
    path = folder / LOCK_FILENAME
    with suppress(FileNotFoundError):
        if not is_plain_file(path.lstat(), own=True):
            raise OSError(errno.EEXIST, "a link or another kind of file, not a lock", str(path))
    try:
        lock = FileLock(path, timeout=0, mode=0o644)
        lock.acquire()
    except Timeout as error:
        holder = read_json_or_empty(folder / HOLDER_FILENAME)
        process, since = holder.get("process"), str(holder.get("since"))[:30]
        name = f"process {process} since {since}" if type(process) is int else "another process"
        raise BusyError(
            f"Another run is working on {subject}.",
            found=f"{folder.name}, locked by {name}",
            expected="one run at a time",
            fix="wait until it is done, or stop it; what it has finished is kept",
        ) from error
    try:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "it was just removed", str(folder))
        if note:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            write_json(folder / HOLDER_FILENAME, {"process": os.getpid(), "since": since})
        yield
    finally:
        lock.release()
