"""SHA-256 of files, tensors and facts, and a cache of file hashes."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ..progress import ProgressCallback, no_progress
from .files import open_regular, read_json_or_empty, temporary_path, write_json

BLOCK_BYTES = 1 << 20
PART_BYTES = 1 << 30  # larger streams are hashed in parts
TICK_NS = 20_000_000
"""Longer than file systems' clocks stand still."""
CACHE_FILENAME, MAX_CACHE_BYTES = "contents.json", 4 << 20


def hash_facts(facts: Mapping[str, Any]) -> str:
    """The hash of names with texts, numbers, and lists and maps of them, in any order.

    Raises ``ValueError`` for NaN and infinity.
    """
    return hash_text(json.dumps(facts, sort_keys=True, allow_nan=False))


def hash_text(text: str) -> str:
    """Of names too that are not UTF-8, which Python has as lone surrogates."""
    return hash_bytes(text.encode(errors="surrogatepass"))


def hash_bytes(data: bytes) -> str:
    return hash_blocks([data])


def hash_blocks(blocks: Iterable[bytes | memoryview]) -> str:
    digest = sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def hash_file(path: Path, progress: ProgressCallback = no_progress, *, follow_links: bool = True) -> str:
    """Raises ``OSError``, also for a file that changes meanwhile, and what ``progress`` raises."""

    def blocks(file: BinaryIO) -> Iterator[bytes]:
        while block := file.read(BLOCK_BYTES):
            yield block
            progress(len(block))

    with open_regular(path, follow_links=follow_links) as file:
        seen = list_identity(os.fstat(file.fileno()))
        digest = hash_blocks(blocks(file))
        if list_identity(os.fstat(file.fileno()))[:3] != seen[:3]:
            raise OSError(errno.EBUSY, "changed while it was being read", str(path))
        return digest


def hash_tensor(values: Tensor) -> str:
    """The hash of a tensor's dtype, shape and values."""
    flat = values.detach().cpu().contiguous()
    return hash_blocks([f"{flat.dtype} {list(flat.shape)} ".encode(), raw_bytes(flat)])


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))


class PartedHash:
    """The hash of a stream: its SHA-256, or that of its parts' if it has several. A stopped pass
    continues behind the parts that are ``done``."""

    def __init__(self, done: Iterable[str] = ()) -> None:
        self.parts, self._part, self._room = list(done), sha256(), PART_BYTES

    def split(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Data cut where parts end; update with each piece before the next."""
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self._room], rest[self._room :]
            yield piece

    def update(self, piece: bytes | memoryview) -> bool:
        """Whether the piece completes a part."""
        self._part.update(piece)
        self._room -= len(piece)
        if self._room:
            return False
        self.parts.append(self._part.hexdigest())
        self._part, self._room = sha256(), PART_BYTES
        return True

    def hexdigest(self) -> str:
        unfinished = self._room < PART_BYTES or not self.parts
        parts = [*self.parts, *([self._part.hexdigest()] if unfinished else [])]
        return parts[0] if len(parts) == 1 else hash_text("".join(parts))


class FileHashCache:
    """What is known of files by :func:`identify`, kept in a JSON file; only in memory if ``path`` is None or
    cannot be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = read_json_or_empty(path, MAX_CACHE_BYTES) if path else {}
        if path is not None:
            with suppress(OSError):  # of a run that was killed
                temporary_path(path).unlink()

    def get(self, path: Path, compute: Callable[[Path], str] = hash_file) -> str:
        """A file's hash; ``compute`` is called unless this very file is known. Raises what it raises."""
        seen = identify(path)
        digest = self.recall(path, seen).get("sha256")
        if not isinstance(digest, str):
            await_tick(seen)
            digest = compute(path)
            if identify(path) == seen:
                self.remember(path, seen, {"sha256": digest})
        return digest

    def recall(self, path: Path, seen: list[int]) -> dict[str, Any]:
        """What was remembered of the file when it was the same; empty if nothing was."""
        entry: Any = self._known.get(_name(path))
        if isinstance(entry, dict) and cast("dict[str, Any]", entry).get("seen") == seen:
            return cast("dict[str, Any]", entry)
        return {}

    def remember(self, path: Path, seen: list[int], facts: Mapping[str, Any]) -> None:
        """Replace what is known of a file."""
        self._known[_name(path)] = {"seen": seen, **facts}
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, self._known)


def identify(path: Path) -> list[int]:
    """Numbers that change when a file does. Raises ``OSError``."""
    return list_identity(path.stat())


def list_identity(status: os.stat_result) -> list[int]:
    """Size, time and inode of a file, and when the inode was changed, which no program sets back (on Windows
    when the file was made). A link and other permissions change the last number too."""
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def await_tick(seen: Sequence[int]) -> None:
    """Wait until a change of a file that was ``seen`` gets another time than it has: before reading it."""
    if 0 <= time.time_ns() - seen[3] < TICK_NS:
        time.sleep(TICK_NS / 1e9)


def _name(path: Path) -> str:
    return hash_text(str(path.resolve()))  # does not reveal where people keep files
