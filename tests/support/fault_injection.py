"""Make the n-th file system call fail, or end the program there."""

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}


class Fault(BaseException):
    """The program ends here; no error handler may catch it."""


@contextmanager
def faults_in(number: int, kind: str) -> Generator[list[str]]:
    """Call ``number`` of open, write, fsync and replace fails, counted from here; gets its name then."""
    calls, struck = count(1), list[str]()

    def around(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if next(calls) != number:
                return real(*arguments, **named)
            of_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            struck.append("fsync folder" if of_folder else name)
            if kind == "kill":
                raise Fault(name)
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

        return called

    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((os, "open"), (os, "write"), (os, "fsync"), (Path, "replace")):
            patch.setattr(place, name, around(name, getattr(place, name)))
        yield struck


def flip_bit(path: Path, place: int = -1, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
