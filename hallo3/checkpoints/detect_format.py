"""What a file is, by its first bytes; what it is not is said in words a user can act on."""

from __future__ import annotations

import io
import os
import stat
from enum import Enum
from pathlib import Path

from ..errors import CheckpointError

HEAD = 512
"""Bytes from which a file is recognised."""
UNFINISHED = (".part", ".partial", ".incomplete", ".aria2", ".crdownload", ".download")
"""What programs that download add to the name of a file that is not finished."""


class FileFormat(Enum):
    """The containers that are read."""

    ZIP = "a zip archive, as torch.save writes"
    SAFETENSORS = "a safetensors file"
    GGUF = "a GGUF file"


_MAGIC: tuple[tuple[bytes, FileFormat], ...] = ((b"PK\x03\x04", FileFormat.ZIP), (b"GGUF", FileFormat.GGUF))

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the weights it points to",
        "run `git lfs pull` there",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and choose the weights inside"),
    (b"Rar!", "a RAR archive", "unpack it and choose the weights inside"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and choose the weights inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and choose the weights inside"),
    (b"(\xb5/\xfd", "a zstd archive", "unpack it and choose the weights inside"),
    (b"PK\x05\x06", "an empty zip archive", "download the file again"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "choose the weights in safetensors or torch's form"),
    (b"\x89PNG", "a picture", "choose the weights"),
    (b"\xff\xd8\xff", "a picture", "choose the weights"),
    (b"\x93NUMPY", "a NumPy array", "choose the weights in safetensors or torch's form"),
    (b"%PDF", "a PDF document", "choose the weights"),
    (b"MZ", "a Windows program", "delete it unless you know where it came from; choose the weights"),
    (b"\x7fELF", "a Linux program", "delete it unless you know where it came from; choose the weights"),
    (b"PK", "a damaged zip archive", "download the file again"),
)
_LEGACY = (b"\x80\x01", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
AGAIN = "download the file again, and compare its size with the one its page gives"


def open_regular(path: Path) -> io.FileIO:
    """The file, opened for positional reads; never waits on a pipe or a device.

    Raises ``CheckpointError`` for whatever is no readable, regular, finished file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise _absent(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(
            "This is not a file of weights.",
            found=f"{path}, which is {_what_else(found.st_mode)}",
            expected="a regular file",
            fix="choose the file itself",
        )
    try:
        return io.FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "r")
    except OSError as error:
        raise _absent(path, error) from error


def detect_format(path: Path, head: bytes, size: int) -> FileFormat:
    """What the file is. Raises ``CheckpointError`` naming what else it is."""
    waiting = unfinished_sibling(path)
    if waiting is not None:
        raise CheckpointError(
            "The file seems to be downloading still.",
            found=f"{waiting.name} beside {path.name}",
            expected="a finished download",
            fix=f"wait until it is done; if nothing is running, delete {waiting.name} and download again",
        )
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if looks_like_safetensors(head, size):
        return FileFormat.SAFETENSORS
    found, do = _foreign(head, size)
    raise CheckpointError(
        f"{path.name} holds no weights that can be read.",
        found=f"{found} ({size:,} bytes)",
        expected="a safetensors file, or a zip archive written by torch.save",
        fix=do,
    )


def unfinished_sibling(path: Path, endings: tuple[str, ...] = UNFINISHED) -> Path | None:
    """What a download in progress keeps beside the file, if anything."""
    for ending in endings:
        beside = path.with_name(path.name + ending)
        try:
            if beside.exists():
                return beside
        except OSError:  # the longer name is no possible one
            continue
    return None


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object."""
    if len(head) < 10 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= max(size, 1 << 40)


def _foreign(head: bytes, size: int) -> tuple[str, str]:
    if size == 0:
        return "an empty file", AGAIN
    for magic, found, do in _FOREIGN:
        if head.startswith(magic):
            return found, do
    if head.startswith(_LEGACY):
        return (
            "a pickle in the form of torch before 1.6, which can hold programs",
            "ask its author for safetensors; or, if you trust it, save it again with torch 1.6 or newer",
        )
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "a web page",
            "the download link led to a page; download the file itself (you may have to log in)",
        )
    if not head.strip(b"\0"):
        return "only zeros at its beginning", AGAIN
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it and choose the weights inside"
    try:
        shown = head[:40].decode("ascii")
    except UnicodeDecodeError:
        return f"unknown data, beginning {head[:8].hex(' ')}", AGAIN
    return f"text, beginning {shown!r}", AGAIN


def _absent(path: Path, error: OSError | ValueError) -> CheckpointError:
    dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(
        "A weights file cannot be opened.",
        found=f"{path}: {'a link that leads nowhere' if dangling else reason}",
        expected="a file that you may read",
        fix="check the name and its permissions, or download it",
    )


def _what_else(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "not a regular file")
