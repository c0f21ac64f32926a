"""Make the n-th file system call fail, or end the program there."""

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS}


class Fault(BaseException):
    """The program ends here; no error handler may catch it."""


@dataclass
class Faults:
    """Counts calls; ``struck`` once the n-th has come, which was ``name``."""

    number: int
    kind: str
    calls: int = 0
    struck: bool = False
    name: str = ""

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls != self.number:
                return real(*arguments, **named)
            of_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            self.struck, self.name = True, "fsync folder" if of_folder else name
            if self.kind == "kill":
                raise Fault(name)
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))

        return called


@contextmanager
def faults_in(number: int, kind: str) -> Generator[Faults]:
    """Call ``number`` of open, write, fsync and replace fails, counted from here."""
    faults = Faults(number, kind)
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((os, "open"), (os, "write"), (os, "fsync"), (Path, "replace")):
            patch.setattr(place, name, faults.around(name, getattr(place, name)))
        yield faults


def flip_bit(path: Path, place: int = -1, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
