"""A matrix in a file: written once from its first row to its last, then read by position.

Nothing is mapped into memory: a mapped file that somebody cuts short kills the process.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError
from ..storage.atomic import SYSTEM, temporary_path, write_error

_FORMAT = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """A float32 array [rows, width] in the file at ``path``, which nothing keeps open."""

    path: Path
    rows: int
    width: int

    @property
    def complete(self) -> bool:
        """Whether the file is there and has the right size."""
        return self._size() == self._bytes(self.rows)

    def check(self) -> None:
        """Raises ``OutputError`` unless the file is there and has the right size."""
        if not self.complete:
            raise self._damaged()

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, width]. Raises ``OutputError`` if they are no longer there."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.rows}")
        rows = np.empty((stop - start, self.width), _FORMAT)
        try:
            with self.path.open("rb") as file:
                file.seek(self._bytes(start))
                found = file.readinto(rows.data.cast("B")) if rows.size else 0
        except OSError as error:
            raise self._damaged() from error
        if found != rows.nbytes:
            raise self._damaged()
        return torch.from_numpy(rows.astype(np.float32, copy=False))

    def remove(self) -> None:
        """Deletes the file, if it is there and can be deleted."""
        with suppress(OSError):
            self.path.unlink()

    def _bytes(self, rows: int) -> int:
        return rows * self.width * _FORMAT.itemsize

    def _size(self) -> int | None:
        try:
            return self.path.stat().st_size if self.path.is_file() else None
        except OSError:
            return None

    def _damaged(self) -> OutputError:
        size = self._size()
        return OutputError(
            "A file that was written while listening is not as it was left.",
            found=f"{self.path}: " + ("missing" if size is None else f"{size:,} bytes"),
            expected=f"{self._bytes(self.rows):,} readable bytes, {self.rows:,} rows of {self.width}",
            fix="delete the file and listen to the recording again",
        )


def write_array_file(path: Path, pieces: Iterable[Tensor], width: int) -> ArrayFile:
    """The pieces [n, width] one after the other as a spool, on disk when this returns.

    It grows under ``NAME.unfinished``, which replaces ``path`` when it is complete and is removed when a
    piece raises. The folder is made. Raises ``OutputError`` if it cannot be written. One process may write
    a path at a time.
    """
    fresh = temporary_path(path)
    rows = 0
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = fresh.open("wb")
    try:
        for piece in pieces:
            if piece.ndim != 2 or piece.shape[1] != width:
                raise ValueError(f"a piece {list(piece.shape)} of a spool [rows, {width}]")
            _append(file, piece, path)
            rows += len(piece)
        with _told(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            SYSTEM.replace(fresh, path)
    except BaseException:
        with suppress(OSError):  # what is still held back may find no room either
            file.close()
        with suppress(OSError):
            fresh.unlink()
        raise
    return ArrayFile(path, rows, width)


def _append(file: IO[bytes], piece: Tensor, path: Path) -> None:
    rows = piece.to("cpu", torch.float32).contiguous().numpy().astype(_FORMAT, copy=False)
    with _told(path):
        file.write(rows.data.cast("B") if rows.size else b"")


@contextmanager
def _told(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise write_error("What is heard in the recording cannot be written.", path, error) from error
