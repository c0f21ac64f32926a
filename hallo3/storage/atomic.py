"""What differs between systems when a file must survive a crash: one object each, both tried everywhere."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..errors import OutputError

CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}
"""What a file system says that cannot do something and needs it not."""
TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.EWOULDBLOCK}
PATIENCE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between tries to replace a file that another program has open."""


class System(Protocol):
    """What storage asks of a system."""

    def replace(self, fresh: Path, path: Path) -> None:
        """Give a finished file its name, in place of whatever had it."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make names in a folder survive a power cut."""
        ...

    def hold(self, descriptor: int) -> bool:
        """Keep an open file for this process until it ends; whether it was free. True as well where the file
        system knows no such thing."""
        ...


class Posix:
    """Linux and macOS."""

    def replace(self, fresh: Path, path: Path) -> None:
        """Atomic, also over an open file."""
        fresh.replace(path)

    def sync_folder(self, folder: Path) -> None:
        """A folder is opened like a file."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in CANNOT:  # some network file systems
                raise
        finally:
            os.close(descriptor)

    def hold(self, descriptor: int) -> bool:
        """By ``flock``: gone with the process, however it ends."""
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in TAKEN
        return True


class Windows:
    """Windows keeps names by itself, but refuses to replace what a player or a virus scanner has open."""

    def __init__(self, patience: tuple[float, ...] = PATIENCE) -> None:
        self._patience = patience

    def replace(self, fresh: Path, path: Path) -> None:
        """Tried for about two seconds."""
        for pause in self._patience:
            try:
                fresh.replace(path)
            except PermissionError:
                time.sleep(pause)
            else:
                return
        fresh.replace(path)

    def sync_folder(self, folder: Path) -> None:
        """Folders cannot be opened here and need not be."""

    def hold(self, descriptor: int) -> bool:
        """By locking the file's first byte: gone with the process too."""
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            return error.errno not in TAKEN
        return True


SYSTEM: System = Windows() if os.name == "nt" else Posix()
"""The one we are on."""


UNFINISHED = ".unfinished"
"""What a file's name ends in until it is whole."""
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def write_atomic(path: Path, blocks: Iterable[bytes | memoryview], system: System = SYSTEM) -> None:
    """The file at ``path`` with these bytes, safe from a power cut when this returns.

    Stopped or failing at any point, what was there before is still there. Raises ``OSError``.
    """
    fresh = temporary_path(path)
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


def finalize_file(fresh: Path, path: Path, system: System = SYSTEM) -> None:
    """Make a file that another library wrote safe, and give it its name. Raises ``OSError``."""
    descriptor = os.open(fresh, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    system.replace(fresh, path)
    system.sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """The name under which a file is written."""
    return path.with_name(path.name + UNFINISHED)


def write_error(headline: str, path: Path, error: OSError, needed: int = 0) -> OutputError:
    """An error of the system's as one of ours: which file, what is wrong, how much room there is."""
    where, said = error.filename or path, error.strerror or str(error)
    if error.errno in FULL:
        room = f"{needed:,} bytes of room" if needed else "a disk with room"
        return OutputError(
            headline,
            found=f"{where}: {said}, {_free(path)} bytes free",
            expected=room,
            fix="free some space and run the same again: it goes on where it stopped",
        )
    return OutputError(
        headline,
        found=f"{where}: {said}",
        expected="a folder that exists and that you may write to",
        fix="mend the folder, remove what is in the way, or choose another; then run the same again",
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
