"""A file written whole: under another name first, made safe, then given its own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError
from .system import SYSTEM, System

UNFINISHED = ".unfinished"
"""What a file's name ends in until it is whole."""
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def write_whole(path: Path, blocks: Iterable[bytes | memoryview], system: System = SYSTEM) -> None:
    """The file at ``path`` with these bytes, safe from a power cut when this returns.

    Stopped or failing at any point, what was there before is still there. Raises ``OSError``.
    """
    fresh = unfinished(path)
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)
        try:
            for block in blocks:
                _write(descriptor, memoryview(block))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        system.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
    system.sync_folder(path.parent)


def adopt(fresh: Path, path: Path, system: System = SYSTEM) -> None:
    """Make a file that another library wrote safe, and give it its name. Raises ``OSError``."""
    descriptor = os.open(fresh, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    system.replace(fresh, path)
    system.sync_folder(path.parent)


def unfinished(path: Path) -> Path:
    """The name under which a file is written."""
    return path.with_name(path.name + UNFINISHED)


def unwritable(headline: str, path: Path, error: OSError, needed: int = 0) -> OutputError:
    """An error of the system's as one of ours: which file, what is wrong, how much room there is."""
    where, said = error.filename or path, error.strerror or str(error)
    if error.errno in FULL:
        room = f"{needed:,} bytes of room" if needed else "a disk with room"
        return OutputError(
            headline,
            found=f"{where}: {said}, {_free(path)} bytes free",
            expected=room,
            do="free some space and run the same again: it goes on where it stopped",
        )
    return OutputError(
        headline,
        found=f"{where}: {said}",
        expected="a folder that exists and that you may write to",
        do="mend the folder, remove what is in the way, or choose another; then run the same again",
    )


def _free(path: Path) -> str:
    with suppress(OSError):
        return f"{shutil.disk_usage(path.parent).free:,}"
    return "an unknown number of"


def _write(descriptor: int, block: memoryview) -> None:
    """All of it: the system may take less at once."""
    raw = block.cast("B")
    while raw:
        raw = raw[os.write(descriptor, raw[: 64 << 20]) :]
