"""What differs between systems when a file must survive a crash: one object each, both tried everywhere."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Protocol

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
