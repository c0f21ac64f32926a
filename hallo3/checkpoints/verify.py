"""Verify a weights file in one pass, front to back: its checksums, its numbers, and its own hash."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..progress import OpenProgress, ProgressCallback, no_display, no_progress
from ..quantization import is_finite
from ..storage.hashing import PART_BYTES, FileHashCache, PartedHash, await_tick, identify, raw_bytes
from .tensor_file import TensorFile

BLOCK_BYTES = 16 << 20
MAX_PASSES = 3
"""Over a file that is linked, or whose permissions change, meanwhile."""


class VerifiedParts(NamedTuple):
    """How far a pass is: the SHA-256 of each part, and the CRC-32 so far of the member that continues."""

    digests: list[str]
    crc: int


def verify_file(
    file: TensorFile,
    progress: ProgressCallback = no_progress,
    *,
    done: VerifiedParts | None = None,
    save: Callable[[VerifiedParts], object] = no_progress,
) -> str:
    """Read every byte behind the parts that are ``done``; return the file's hash. Raises ``CheckpointError``
    for a member whose checksum differs from the file's own, and for a tensor with NaN or infinite values, by
    its name."""
    hashed = PartedHash(done.digests if done else ())
    first = len(hashed.parts) * PART_BYTES
    checks = _Checksums(file, first, done.crc if done else 0)
    regions, apart = _split_regions(file)
    progress(first)
    for offset, size, tensor in regions:
        for start in range(offset, offset + size, BLOCK_BYTES):
            stop = min(start + BLOCK_BYTES, offset + size)
            if stop <= first:
                continue
            block = file.raw(start, stop - start)
            if tensor:
                _check_finite(block.view(file.entries[tensor].dtype), tensor)
            for piece in hashed.split(raw_bytes(block)[max(0, first - start) :]):
                checks.update(piece)
                progress(len(piece))
                if hashed.update(piece):
                    save(VerifiedParts(hashed.parts, checks.crc))
    for tensor in apart:
        for piece in file.pieces(tensor, 0, file.entries[tensor].numel, BLOCK_BYTES // 8):
            _check_finite(piece, tensor)
    return hashed.hexdigest()


def _split_regions(file: TensorFile) -> tuple[list[tuple[int, int, str]], list[str]]:
    """The whole file cut into regions (offset, size, the tensor's name or ""), and the tensors that must be
    read apart: strided, or sharing bytes with another. A second name for the same bytes is not checked."""
    regions: list[tuple[int, int, str]] = []
    apart: list[str] = []
    done: set[tuple[int, int, torch.dtype]] = set()
    free = 0
    for name, entry in sorted(file.entries.items(), key=lambda item: item[1].offset):
        place = (entry.offset, entry.span, entry.dtype)
        if not entry.dtype.is_floating_point or entry.quantised or not entry.span:
            continue
        if entry.stride is not None or (entry.offset < free and place not in done):
            apart.append(name)
        elif place not in done:
            if entry.offset > free:
                regions.append((free, entry.offset - free, ""))
            regions.append((entry.offset, entry.span, name))
            free = entry.offset + entry.span
            done.add(place)
    if free < file.fingerprint.size:
        regions.append((free, file.fingerprint.size - free, ""))
    return regions, apart


def _check_finite(values: Tensor, name: str) -> None:
    if not is_finite(values):
        raise CheckpointError(
            "The weights hold values that are no numbers.",
            found=f"NaN or infinity in {name}",
            expected="finite numbers",
            fix="the file was damaged or badly converted: download it again",
        )


class _Checksums:
    """Follows the pass and compares each member's CRC-32 when its end has passed."""

    def __init__(self, file: TensorFile, first: int, crc: int) -> None:
        members = (m for m in file.members if m.size and m.offset + m.size > first)
        self._waiting = sorted(members, key=lambda m: m.offset, reverse=True)
        self._at, self.crc = first, crc

    def update(self, raw: memoryview) -> None:
        end = self._at + len(raw)
        while self._waiting and self._waiting[-1].offset < end:
            member = self._waiting[-1]
            first, last = max(member.offset, self._at), min(member.offset + member.size, end)
            self.crc = zlib.crc32(raw[first - self._at : last - self._at], self.crc)
            if last < member.offset + member.size:
                break
            if self.crc != member.crc:
                raise CheckpointError(
                    "The weights file is damaged.",
                    found=f"{member.name}, whose checksum differs",
                    expected="the bytes that were written",
                    fix="download the file again",
                )
            self.crc = 0
            self._waiting.pop()
        self._at = end


def home() -> Path:
    """The user's home. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def examined_path() -> Path | None:
    """Where the command and ComfyUI remember verified files: in the user's home, if there is one."""
    with suppress(RuntimeError):
        return home() / ".cache" / "hallo3" / "examined.json"
    return None


class FileVerifier:
    """Verifies each file once, and continues a stopped pass; keeps the hashes in a JSON file, if it has a
    path."""

    def __init__(self, cache_path: Path | None = None, open_progress: OpenProgress = no_display) -> None:
        self._known, self._open_progress = FileHashCache(cache_path), open_progress

    def get_hash(self, file: TensorFile) -> str:
        """The file's hash. Raises ``CheckpointError``, also for a file that is changed again and again."""
        for _ in range(MAX_PASSES):
            file.renew()
            digest = self._examine(file)
            if file.is_untouched():
                return digest
        raise file.change_error()

    def _examine(self, file: TensorFile) -> str:
        size, seen = file.fingerprint.size, list(astuple(file.fingerprint))
        known = self._known.recall(file.path, seen)
        if isinstance(known.get("sha256"), str):
            return str(known["sha256"])

        def save(parts: VerifiedParts) -> None:
            self._known.remember(file.path, seen, parts._asdict())

        await_tick(seen)
        with self._open_progress(f"checking {file.path.name}", size) as progress:
            digest = verify_file(file, progress, done=_read_parts(known, size), save=save)
        if file.is_untouched():
            self._known.remember(file.path, seen, {"sha256": digest})
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Take a file as verified that was written from verified values."""
        self._known.remember(path, identify(path), {"sha256": digest})


def _read_parts(known: dict[str, Any], size: int) -> VerifiedParts | None:
    digests, crc = known.get("digests"), known.get("crc")
    if type(digests) is list and type(crc) is int and len(cast("list[Any]", digests)) * PART_BYTES <= size:
        texts = [str(each) for each in cast("list[Any]", digests)]
        if all(re.fullmatch("[0-9a-f]{64}", text) for text in texts):
            return VerifiedParts(texts, crc)
    return None
