"""Hashes of files, taken once and remembered as long as a file stays what it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .atomic import write_atomic

BLOCK = 1 << 20


def hash_facts(facts: Mapping[str, Any]) -> str:
    """The key of these facts: names with texts, numbers, and lists and maps of them, in any order.

    Raises ``ValueError`` for numbers that are none.
    """
    return sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises ``OSError``."""
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def hash_tensor(values: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    flat = values.detach().cpu().contiguous()
    found = sha256(f"{flat.dtype} {list(flat.shape)} ".encode())
    found.update(raw_bytes(flat))
    return found.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))


FILE = "contents.json"
LARGEST = 4 << 20

Watch = Callable[[int], None]
"""Called with the bytes read since the last call; may raise to stop."""


def unwatched(count: int) -> None:
    """Nobody looks."""
    del count


class FileHashCache:
    """SHA-256 of files by size, time and inode, kept in the folder ``jobs``."""

    def __init__(self, jobs: Path) -> None:
        self._kept_in = jobs / FILE
        self._known: dict[str, Any] = {}
        with suppress(OSError, ValueError, RecursionError), self._kept_in.open("rb") as file:
            found: object = json.loads(file.read(LARGEST))
            self._known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    def of(self, path: Path, watch: Watch = unwatched) -> str:
        """A file's SHA-256. Raises ``OSError``, and what ``watch`` raises."""
        seen = path.stat()
        mark = [seen.st_size, seen.st_mtime_ns, seen.st_ino]
        name = sha256(str(path).encode()).hexdigest()  # where people keep their files is their own affair
        known: object = self._known.get(name)
        if isinstance(known, dict) and cast("dict[str, Any]", known).get("seen") == mark:
            return str(cast("dict[str, Any]", known).get("sha256"))
        found = sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
                watch(len(block))
        self._known[name] = {"seen": mark, "sha256": found.hexdigest()}
        with suppress(OSError):
            write_atomic(self._kept_in, [json.dumps(self._known).encode()])
        return found.hexdigest()
