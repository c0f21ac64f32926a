"""A matrix in a file: written once, row by row, then read by position.

numpy's ``.npy`` has the number of rows in its header, which is unknown here until the end, and is read by
position only through ``np.memmap``: a mapped file that is truncated kills the process. A checksum follows
the rows, for files that are kept between runs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError
from ..storage.files import (
    create_file,
    finalize_file,
    is_plain_file,
    open_regular,
    temporary_path,
    write_error,
)

_FORMAT = np.dtype("<f4")
CHECKSUM_BYTES, BLOCK_BYTES = 4, 1 << 22


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """A float32 array [rows, width] in the file at ``path``, which is not kept open."""

    path: Path
    rows: int
    width: int

    def is_whole(self) -> bool:
        """Whether every byte is as it was written; reads them all."""
        if self._size() != self._bytes(self.rows) + CHECKSUM_BYTES:
            return False
        found, rest = 0, self._bytes(self.rows)
        with suppress(OSError), open_regular(self.path, follow_links=False) as file:
            while rest and (block := file.read(min(rest, BLOCK_BYTES))):
                found, rest = zlib.crc32(block, found), rest - len(block)
            return not rest and file.read(CHECKSUM_BYTES) == found.to_bytes(CHECKSUM_BYTES, "little")
        return False

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, width]. Raises ``OutputError`` if the file is missing or truncated, or holds
        NaN or infinity."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.rows}")
        count = (stop - start) * self.width
        try:
            with open_regular(self.path, follow_links=False) as file:
                file.seek(self._bytes(start))
                values = np.fromfile(file, _FORMAT, count)
        except OSError as error:
            raise self._damage_error() from error
        if values.size != count or not np.isfinite(values).all():
            raise self._damage_error()
        return torch.from_numpy(values.astype(np.float32, copy=False).reshape(-1, self.width))

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()

    def _bytes(self, rows: int) -> int:
        return rows * self.width * _FORMAT.itemsize

    def _size(self) -> int | None:
        try:
            status = self.path.lstat()
            return status.st_size if is_plain_file(status) else None
        except OSError:
            return None

    def _damage_error(self) -> OutputError:
        size = self._size()
        return OutputError(
            "A file of speech features has changed since it was written.",
            found=f"{self.path}: " + ("missing" if size is None else f"{size:,} bytes"),
            expected=f"{self._bytes(self.rows):,} readable bytes, {self.rows:,} rows of {self.width} numbers",
            fix="delete the file and run the same again",
        )


def write_array_file(path: Path, pieces: Iterable[Tensor], width: int) -> ArrayFile:
    """Write pieces [n, width] one after the other; on disk when this returns. One process at a time per path.
    The file grows under a temporary name and replaces ``path`` when it is complete; it is deleted if a piece
    raises. Creates the folder. Raises ``OutputError`` if it cannot be written."""
    fresh, rows, checksum = temporary_path(path), 0, 0
    with _raise_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(create_file(fresh), "wb")
    try:
        for piece in pieces:
            if piece.ndim != 2 or piece.shape[1] != width:
                raise ValueError(f"a piece {list(piece.shape)} of an array [rows, {width}]")
            values = piece.to("cpu", torch.float32).contiguous().numpy().astype(_FORMAT, copy=False)
            data = values.data.cast("B") if values.size else b""
            with _raise_output_error(path):
                file.write(data)
            rows, checksum = rows + len(piece), zlib.crc32(data, checksum)
        with _raise_output_error(path):
            file.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
            file.close()
            finalize_file(fresh, path)
    except BaseException:
        for clean_up in (file.close, fresh.unlink):
            with suppress(OSError):  # flushing the buffer may fail on a full disk too
                clean_up()
        raise
    return ArrayFile(path, rows, width)


@contextmanager
def _raise_output_error(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise write_error("The speech features cannot be written.", path, error) from error
