"""A file of tensors, open for reading: what it holds, tensor by tensor, by positional reads.

``safetensors`` and ``torch.load`` map files into memory: one that another program cuts kills the process.
Here it gives an error, or the old bytes.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any, Self, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..storage.files import open_regular
from ..storage.hashing import list_identity
from .gguf import dequantize, read_gguf
from .tensor_entry import read_header
from .torch_zip import Member, read_torch

UNFINISHED_SUFFIXES = (".part", ".partial", ".incomplete", ".aria2", ".crdownload", ".download")
"""What programs that download add to the name of a file that is not finished."""


class FileFormat(Enum):
    ZIP = "a zip archive, as torch.save writes"
    SAFETENSORS = "a safetensors file"
    GGUF = "a GGUF file"


_UNPACK = "unpack it and choose the weights inside"
_AGAIN = "download the file again, and compare its size with the one its page gives"
_PULL = "run `git lfs pull` there"
_DELETE = "delete it unless you know where it came from; choose the weights"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights it points to", _PULL),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"PK", "an empty or damaged zip archive", _AGAIN),
    (b"MZ", "a Windows program", _DELETE),
    (b"\x7fELF", "a Linux program", _DELETE),
)
_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """By which a file is known again without reading it, as of ``list_identity``; times in ns. A link to the
    file changes only ``changed``."""

    size: int
    modified: int
    inode: int
    changed: int


class TensorFile:
    """``entries`` by name, in the file's order; ``metadata``; ``beside``: what else it holds, in words;
    ``members`` of a zip archive that have a checksum. A context manager. Raises ``CheckpointError`` for a
    file that is not whole, not weights, or hostile. A ``file`` of ours that is open already is safetensors
    and nothing else."""

    def __init__(self, path: Path, file: io.BufferedReader | None = None) -> None:
        self.path = path
        self._file = file or _open_file(path)
        self._lock = Lock()
        self.metadata: Mapping[str, str] = {}
        self.beside: Mapping[str, str] = {}
        self.members: tuple[Member, ...] = ()
        try:
            self.fingerprint = self._stat()
            size = self.fingerprint.size
            head = self.bytes(0, min(512, size))
            self.kind = FileFormat.SAFETENSORS if file else _detect_format(self.path, head, size)
            if self.kind is FileFormat.SAFETENSORS:
                self.entries, self.metadata = read_header(self.bytes, size)
            elif self.kind is FileFormat.ZIP:
                self.entries, self.beside, members = read_torch(self.bytes, size)
                self.members = tuple(member for member in members.values() if member.crc)
            else:
                self.entries, self.metadata = read_gguf(self.bytes, size)
        except CheckpointError as error:
            self.close()
            if path.name in error.found or path.name in error.headline:
                raise
            place, expected, fix = f"{path.name}: {error.found}", error.expected, error.fix
            raise CheckpointError(error.headline, found=place, expected=expected, fix=fix) from error
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own."""
        entry = self.entries[name]
        raw = self.raw(entry.offset, entry.span)
        if entry.quantised:
            return dequantize(raw, entry)
        flat = _view_as(raw, entry.dtype)
        if entry.stride is None:
            return flat.reshape(entry.shape)
        return flat.as_strided(entry.shape, entry.stride).contiguous()

    def pieces(self, name: str, start: int, stop: int, most: int) -> Iterator[Tensor]:
        """Elements ``start`` to ``stop`` of a tensor as flat tensors of at most ``most`` elements."""
        entry = self.entries[name]
        if entry.stride is not None or entry.quantised:  # no order to follow in the file: as a whole
            yield from self.read(name).flatten()[start:stop].split(most)
            return
        size = entry.dtype.itemsize
        for begin in range(start, stop, most):
            count = min(most, stop - begin)
            yield _view_as(self.raw(entry.offset + begin * size, count * size), entry.dtype)

    def raw(self, offset: int, size: int) -> Tensor:
        """Bytes [size] of the file, whatever they are."""
        data = torch.empty(size, dtype=torch.uint8)
        self._read_into(memoryview(cast(Any, data.numpy())), offset)
        self.check_unchanged()
        return data

    def bytes(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self._read_into(memoryview(data), offset)
        return bytes(data)

    def check_unchanged(self) -> None:
        """Raises ``CheckpointError`` if the open file was changed; one of the same name does not matter."""
        if astuple(self._stat())[:3] != astuple(self.fingerprint)[:3]:
            raise self.change_error()

    def is_untouched(self) -> bool:
        """Whether nothing at all was done to the open file."""
        return self._stat() == self.fingerprint

    def renew(self) -> None:
        """Take the open file as it is now, after a link or other permissions. Raises ``CheckpointError``."""
        self.check_unchanged()
        self.fingerprint = self._stat()

    def is_current(self) -> bool:
        """Whether the open file is unchanged and still that of its name."""
        try:
            return _fingerprint(self.path.stat()) == self.fingerprint == self._stat()
        except OSError:
            return False

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_into(self, view: memoryview, offset: int) -> None:
        position = 0
        with self._lock:
            try:
                self._file.seek(offset)
                while position < len(view):
                    count = self._file.readinto(view[position:])
                    if not count:
                        raise self.change_error()
                    position += count
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    "A weights file cannot be read.",
                    found=f"{self.path.name}: {error}",
                    expected="a disk that gives the file's bytes",
                    fix="check the disk or the network it is on, then run again",
                ) from error

    def change_error(self) -> CheckpointError:
        return CheckpointError(
            "A weights file was changed while it was being read.",
            found=f"{self.path.name}, now {self._stat().size:,} bytes",
            expected=f"the {self.fingerprint.size:,} bytes it had",
            fix="let the program that writes it finish, then run again",
        )

    def _stat(self) -> Fingerprint:
        return _fingerprint(os.fstat(self._file.fileno()))


def _fingerprint(status: os.stat_result) -> Fingerprint:
    return Fingerprint(*list_identity(status))


def _view_as(raw: Tensor, dtype: torch.dtype) -> Tensor:
    return raw != 0 if dtype == torch.bool else raw.view(dtype)


def _open_file(path: Path) -> io.FileIO:
    """Never waits on a pipe or a device. Raises ``CheckpointError``."""
    try:
        return cast(io.FileIO, open_regular(path).detach())
    except (OSError, ValueError) as error:
        mode = 0
        with suppress(OSError, ValueError):
            mode = path.stat().st_mode
        if mode and not stat.S_ISREG(mode):
            kind = next((name for test, name in _FILE_KINDS if test(mode)), "not a regular file")
            raise CheckpointError(
                "This is not a file of weights.",
                found=f"{path}, which is {kind}",
                expected="a regular file",
                fix="choose the file itself",
            ) from error
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(
            "A weights file cannot be opened.",
            found=f"{path}: {'a link that leads nowhere' if dangling else reason}",
            expected="a file that you may read",
            fix="check the name and its permissions, or download it",
        ) from error


def _detect_format(path: Path, head: bytes, size: int) -> FileFormat:
    """Raises ``CheckpointError`` naming what else it is."""
    unfinished = unfinished_sibling(path)
    if unfinished is not None:
        raise CheckpointError(
            "The file seems to be downloading.",
            found=f"{unfinished.name} beside {path.name}",
            expected="a finished download",
            fix=f"wait until it is done; if nothing is running, delete {unfinished.name} and download again",
        )
    if head.startswith(b"PK\x03\x04"):
        return FileFormat.ZIP
    if head.startswith(b"GGUF"):
        return FileFormat.GGUF
    if (
        len(head) >= 10
        and head[8:9] == b"{"
        and 2 <= int.from_bytes(head[:8], "little") <= max(size, 1 << 40)
    ):
        return FileFormat.SAFETENSORS
    description, fix = _describe_foreign(head, size)
    raise CheckpointError(
        f"{path.name} holds no weights that can be read.",
        found=f"{description} ({size:,} bytes)",
        expected="a safetensors file, or a zip archive written by torch.save",
        fix=fix,
    )


def unfinished_sibling(path: Path, suffixes: tuple[str, ...] = UNFINISHED_SUFFIXES) -> Path | None:
    """What a download in progress keeps beside the file, if anything."""
    for suffix in suffixes:
        beside = path.with_name(path.name + suffix)
        try:
            if beside.exists():
                return beside
        except OSError:  # the longer name is no possible one
            continue
    return None


def _describe_foreign(head: bytes, size: int) -> tuple[str, str]:
    if size == 0:
        return "an empty file", _AGAIN
    for magic, description, fix in _FOREIGN:
        if head.startswith(magic):
            return description, fix
    if head[:1] == b"\x80" and head[1:2] in b"\1\2\3\4\5":
        return (
            "a pickle in the form of torch before 1.6, which can hold programs",
            "ask its author for safetensors; or, if you trust it, save it again with torch 1.6 or newer",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "a web page",
            "the download link led to a page; download the file itself (you may have to log in)",
        )
    if not head.strip(b"\0"):
        return "only zeros at its beginning", _AGAIN
    if head.isascii():
        return f"text, beginning {head[:40].decode('ascii')!r}", _AGAIN
    return f"unknown data, beginning {head[:8].hex(' ')}", _AGAIN
