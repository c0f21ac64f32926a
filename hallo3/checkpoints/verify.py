"""A file's contents checked in one pass, front to back: its checksums, its numbers, and its own hash."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..storage.hashing import hash_blocks
from .tensor_file import TensorFile

BLOCK = 16 << 20
Watch = Callable[[int], object]
"""Called with the number of bytes that have been dealt with since the last call."""


Watching = Callable[[str, int], AbstractContextManager[Watch]]
"""Opens a watch: (what is done, bytes there are)."""


def unwatched(count: int) -> None:
    """A watch that looks away."""


def nobody(what: str, total: int) -> AbstractContextManager[Watch]:
    """Opens a watch that looks away."""
    del what, total
    return nullcontext(unwatched)


def verify_file(file: TensorFile, watch: Watch = unwatched) -> str:
    """Read every byte; the file's SHA-256.

    Raises ``CheckpointError`` for a stretch whose checksum is another than the file says, and for a tensor
    with values that are no numbers (NaN) or infinite, by its name.
    """
    checks = _Checksums(file)
    in_order, apart = _arranged(file)

    def checked_blocks() -> Iterator[memoryview]:
        for offset, size, tensor in _regions(file, in_order):
            for block in _blocks(file, offset, size):
                raw = memoryview(cast(Any, block.numpy()))
                checks.update(raw)
                if tensor:
                    _check_finite(block.view(file.entries[tensor].dtype), tensor)
                watch(len(raw))
                yield raw

    digest = hash_blocks(checked_blocks())
    for tensor in apart:
        for piece in file.pieces(tensor, 0, file.entries[tensor].numel, BLOCK // 8):
            _check_finite(piece, tensor)
    return digest


def _arranged(file: TensorFile) -> tuple[list[str], list[str]]:
    """Tensors that lie one after the other and can be checked in passing, and those that must be read apart:
    strided, or sharing bytes with another. A second name for the same bytes needs no second look."""
    in_order: list[str] = []
    apart: list[str] = []
    seen: set[tuple[int, int, torch.dtype]] = set()
    free = 0
    for name, entry in sorted(file.entries.items(), key=lambda item: item[1].offset):
        same = (entry.offset, entry.span, entry.dtype)
        if not entry.dtype.is_floating_point or entry.quantised or not entry.span:
            continue
        if entry.stride is not None or (entry.offset < free and same not in seen):
            apart.append(name)
        elif same not in seen:
            in_order.append(name)
            free = entry.offset + entry.span
            seen.add(same)
    return in_order, apart


def _regions(file: TensorFile, in_order: list[str]) -> Iterator[tuple[int, int, str]]:
    """The whole file cut at these tensors' borders: (offset, size, the tensor's name or "")."""
    free = 0
    for name in in_order:
        entry = file.entries[name]
        if entry.offset > free:
            yield free, entry.offset - free, ""
        yield entry.offset, entry.span, name
        free = entry.offset + entry.span
    if free < file.fingerprint.size:
        yield free, file.fingerprint.size - free, ""


def _check_finite(values: Tensor, name: str) -> None:
    if not values.is_floating_point():
        return
    if values.element_size() == 1:
        values = values.float()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            "The weights hold values that are no numbers.",
            found=f"NaN or infinity in {name}",
            expected="finite numbers",
            fix="the file was damaged or badly converted: download it again",
        )


def _blocks(file: TensorFile, offset: int, size: int) -> Iterator[Tensor]:
    for start in range(0, size, BLOCK):
        yield file.raw(offset + start, min(BLOCK, size - start))


class _Checksums:
    """Follows the pass and compares each stretch's CRC-32 when its end has gone by."""

    def __init__(self, file: TensorFile) -> None:
        self._waiting = sorted((s for s in file.checksums if s.size), key=lambda s: s.offset, reverse=True)
        self._at, self._crc = 0, 0

    def update(self, raw: memoryview) -> None:
        """The next bytes of the file."""
        end = self._at + len(raw)
        while self._waiting and self._waiting[-1].offset < end:
            stretch = self._waiting[-1]
            first = max(stretch.offset, self._at)
            last = min(stretch.offset + stretch.size, end)
            self._crc = zlib.crc32(raw[first - self._at : last - self._at], self._crc)
            if last < stretch.offset + stretch.size:
                break
            if self._crc != stretch.crc:
                raise CheckpointError(
                    "The weights file is damaged.",
                    found=f"{stretch.name}, whose checksum differs",
                    expected="the bytes that were written",
                    fix="download the file again",
                )
            self._crc = 0
            self._waiting.pop()
        self._at = end


class FileVerifier:
    """Which files have been examined, kept in a JSON file; without one, only as long as this object lives.

    ``watching`` opens a watch for a file that is examined, given in words what is done and how many bytes.
    """

    def __init__(self, kept_in: Path | None = None, watching: Watching = nobody) -> None:
        self._path, self._watching, self._known = kept_in, watching, _read_known(kept_in)

    def hash_of(self, file: TensorFile) -> str:
        """The file's SHA-256; it is examined unless this very file has been. Raises ``CheckpointError``."""
        name, seen = str(file.path.resolve()), asdict(file.fingerprint)
        known = self._known.get(name)
        if known is not None and known.get("seen") == seen:
            return str(known["sha256"])
        with self._watching(f"checking {file.path.name}", file.fingerprint.size) as watch:
            found = verify_file(file, watch)
        self._known[name] = {"seen": seen, "sha256": found}
        self._keep()
        return found

    def knows(self, file: TensorFile) -> bool:
        """Whether this very file has been examined."""
        return (self._known.get(str(file.path.resolve())) or {}).get("seen") == asdict(file.fingerprint)

    def _keep(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(self._path.name + ".fresh")
            fresh.write_text(json.dumps(self._known), encoding="utf-8")
            fresh.replace(self._path)
        except OSError:
            self._path = None  # a read-only home costs a second look next time, and nothing else


def _read_known(path: Path | None) -> dict[str, dict[str, Any]]:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {name: item for name, item in known.items() if isinstance(item, dict) and "sha256" in item}
