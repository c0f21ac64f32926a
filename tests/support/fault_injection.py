"""Make the n-th change of the file system fail, or end the program there."""

import errno
import os
import resource
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {
    "os.rename": "replace",
    "os.remove": "unlink",
    "os.rmdir": "rmdir",
    "os.mkdir": "mkdir",
    "os.link": "link",
}


class Fault(BaseException):
    """The program ends here; no error handler may catch it."""


_strike: Callable[[str], None] | None = None  # an audit hook cannot be removed


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _strike is not None:
        if event in CHANGES:
            _strike(CHANGES[event])
        elif event == "open" and not isinstance(arguments[0], int) and arguments[2] & WRITING:
            _strike("open")


sys.addaudithook(_heard)


@contextmanager
def faults_in(number: int, kind: str) -> Generator[list[str]]:
    """Change ``number`` of the file system fails, counted from here; gets its name then. Changes are files
    opened for writing, renamed, linked or deleted, folders made or deleted, and calls of write and fsync.

    After a "kill" nothing is changed any more. A disk that "stays full" takes no more bytes from then on.
    """
    global _strike
    calls, struck = count(1), list[str]()

    def strike(name: str) -> None:
        if next(calls) != number and not (struck and kind == "kill"):
            return
        struck[:] = struck or [name]
        if kind == "kill":
            raise Fault(name)
        if kind == "stays full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            return
        raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

    def around(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            of_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            strike("fsync folder" if of_folder else name)
            return None if name == "fsync" else real(*arguments, **named)  # it takes time, not effect

        return called

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "fsync"):
            patch.setattr(os, name, around(name, getattr(os, name)))
        _strike = strike
        try:
            yield struck
        finally:
            _strike = None
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def flip_bit(path: Path, place: int = -1, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
