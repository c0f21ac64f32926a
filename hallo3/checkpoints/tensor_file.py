"""A file of tensors, open for reading: what it holds, tensor by tensor, by positional reads.

Nothing is mapped into memory: a file that another program cuts or replaces gives an error or the old bytes,
never a dead process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detect_format import HEAD, FileFormat, detect_format, open_regular
from .gguf import dequantize, read_gguf
from .tensor_entry import TensorEntry, read_header
from .torch_zip import read_torch


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """By which a file is known again without reading it."""

    size: int
    modified: int
    inode: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a file with the checksum (CRC-32) that it names for them."""

    name: str
    offset: int
    size: int
    crc: int


class TensorFile:
    """``entries`` by name, in the file's order; ``metadata``; ``beside``: what else it holds, in words.

    A context manager. Raises ``CheckpointError`` for a file that is not whole, not weights, or hostile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        self._lock = Lock()
        self.metadata: Mapping[str, str] = {}
        self.beside: Mapping[str, str] = {}
        self.checksums: tuple[Stretch, ...] = ()
        try:
            self.fingerprint = self._seen()
            self._open()
        except CheckpointError as error:
            self.close()
            raise _about(path, error) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = self.fingerprint.size
        self.kind = detect_format(self.path, self.bytes(0, min(HEAD, size)), size)
        if self.kind is FileFormat.SAFETENSORS:
            self.entries, self.metadata = read_header(self.bytes, size)
        elif self.kind is FileFormat.ZIP:
            contents = read_torch(self.bytes, size)
            self.entries, self.beside = contents.entries, contents.beside
            self.checksums = tuple(
                Stretch(m.name, m.offset, m.size, m.crc) for m in contents.members.values() if m.crc
            )
        else:
            self.entries, self.metadata = read_gguf(self.bytes, size)

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own."""
        entry = self.entries[name]
        return _shaped(self.raw(entry.offset, entry.span), entry)

    def pieces(self, name: str, start: int, stop: int, most: int) -> Iterator[Tensor]:
        """Elements ``start`` to ``stop`` of a tensor as flat tensors of at most ``most`` elements."""
        entry = self.entries[name]
        if entry.stride is not None or entry.quantised:  # no order to follow in the file: as a whole
            yield from self.read(name).flatten()[start:stop].split(most)
            return
        size = entry.dtype.itemsize
        for begin in range(start, stop, most):
            count = min(most, stop - begin)
            yield _typed(self.raw(entry.offset + begin * size, count * size), entry.dtype)

    def raw(self, offset: int, size: int) -> Tensor:
        """A stretch of the file, whatever it holds, as bytes [size]."""
        found = torch.empty(size, dtype=torch.uint8)
        self._fill(found, offset)
        return found

    def bytes(self, offset: int, size: int) -> bytes:
        """A stretch of the file."""
        raw = bytearray(size)
        self._read_into(memoryview(raw), offset)
        return bytes(raw)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, raw: Tensor, offset: int) -> None:
        self._read_into(memoryview(cast(Any, raw.numpy())), offset)
        if self._seen() != self.fingerprint:
            raise self._changed()

    def _read_into(self, view: memoryview, offset: int) -> None:
        position = 0
        with self._lock:
            try:
                self._file.seek(offset)
                while position < len(view):
                    count = self._file.readinto(view[position:])
                    if not count:
                        raise self._changed()
                    position += count
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    "A weights file cannot be read.",
                    found=f"{self.path.name}: {error}",
                    expected="a disk that gives the file's bytes",
                    fix="check the disk or the network it is on, then run again",
                ) from error

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            "A weights file was changed while it was being read.",
            found=f"{self.path.name}, now {self._seen().size:,} bytes",
            expected=f"the {self.fingerprint.size:,} bytes it had",
            fix="let the program that writes it finish, then run again",
        )

    def _seen(self) -> Fingerprint:
        found = os.fstat(self._file.fileno())
        return Fingerprint(found.st_size, found.st_mtime_ns, found.st_ino)


def _shaped(raw: Tensor, entry: TensorEntry) -> Tensor:
    if entry.quantised:
        return dequantize(raw, entry)
    flat = _typed(raw, entry.dtype)
    if entry.stride is None:
        return flat.reshape(entry.shape)
    return flat.as_strided(entry.shape, entry.stride).contiguous()


def _typed(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return raw != 0 if dtype == torch.bool else raw.view(dtype)


def _about(path: Path, error: CheckpointError) -> CheckpointError:
    if path.name in error.found or path.name in error.headline:
        return error
    return CheckpointError(
        error.headline, found=f"{path.name}: {error.found}", expected=error.expected, fix=error.fix
    )
