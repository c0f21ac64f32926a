"""Verify a weights file in one pass, front to back: its checksums, its numbers, and its own hash."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Collection
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..progress import OpenProgress, ProgressCallback, no_display, no_progress
from ..quantization import value_range
from ..storage.files import cache_path
from ..storage.hashing import PART_BYTES, FileHashCache, PartedHash, await_tick, identify, raw_bytes
from .tensor_entry import TensorEntry
from .tensor_file import TensorFile

BLOCK_BYTES = 16 << 20
SAMPLE_BYTES, MIN_NUMBERS = 4096, 64
"""Of a matrix: what is looked at where a file is not read, and how many numbers are not equal by chance."""
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
    used: Collection[str] = (),
    done: VerifiedParts | None = None,
    save: Callable[[VerifiedParts], object] = no_progress,
) -> str:
    """Read every byte behind the parts that are ``done``; return the file's hash. Raises ``CheckpointError``
    for a member whose checksum differs from the file's own, for a tensor with NaN or infinite values, and for
    a matrix that is ``used`` and holds one number only, by its name."""
    hashed = PartedHash(done.digests if done else ())
    first = len(hashed.parts) * PART_BYTES
    checks = _Checksums(file, first, done.crc if done else 0)
    matrices = _matrices(file, used)
    regions, apart = _split_regions(file, matrices)
    progress(first)
    for offset, size, tensor in regions:
        low, high = math.inf, -math.inf
        for start in range(offset, offset + size, BLOCK_BYTES):
            stop = min(start + BLOCK_BYTES, offset + size)
            if stop <= first and (low < high or offset + size <= first or tensor not in matrices):
                continue
            block = file.raw(start, stop - start)
            if tensor:
                least, most = _measure(block, file.entries[tensor], tensor)
                low, high = min(low, least), max(high, most)
            if stop <= first:  # passed before: only how the tensor begins was to be known
                continue
            for piece in hashed.split(raw_bytes(block)[max(0, first - start) :]):
                checks.update(piece)
                progress(len(piece))
                if hashed.update(piece):
                    save(VerifiedParts(hashed.parts, checks.crc))
        if low == high and tensor in matrices:
            raise _constant_error(file, tensor)
    for tensor in apart:
        pieces = file.pieces(tensor, 0, file.entries[tensor].numel, BLOCK_BYTES // 8)
        bounds = {_check_finite(piece, tensor) for piece in pieces}
        if tensor in matrices and len({bound for pair in bounds for bound in pair}) == 1:
            raise _constant_error(file, tensor)
    return hashed.hexdigest()


def check_samples(file: TensorFile, used: Collection[str]) -> None:
    """Look at a few numbers of each matrix that is ``used``, and through those that look constant. Raises
    ``CheckpointError`` for one that holds one number only."""
    for name in sorted(_matrices(file, used)):
        entry = file.entries[name]
        width = 1 if entry.quantised else entry.dtype.itemsize
        middle = entry.offset + entry.span // 2 // width * width
        sample = file.bytes(middle, min(SAMPLE_BYTES, entry.offset + entry.span - middle))
        if sample == sample[:width] * (len(sample) // width):
            starts = range(entry.offset, entry.offset + entry.span, BLOCK_BYTES)
            sizes = (min(BLOCK_BYTES, entry.offset + entry.span - start) for start in starts)
            bounds = set[float]()
            for start, size in zip(starts, sizes, strict=True):
                bounds.update(_measure(file.raw(start, size), entry, name))
                if len(bounds) > 1:
                    break
            else:
                raise _constant_error(file, name)


def _matrices(file: TensorFile, used: Collection[str]) -> set[str]:
    """Tensors of two axes and more, of which a trained network has none with equal numbers only. Biases,
    norms and scales may be constant."""
    entries = {name: file.entries[name] for name in file.entries.keys() & set(used)}
    axes = {name: sum(extent > 1 for extent in entry.shape) for name, entry in entries.items()}
    return {name for name, entry in entries.items() if axes[name] > 1 and entry.numel >= MIN_NUMBERS}


def _split_regions(
    file: TensorFile, matrices: Collection[str]
) -> tuple[list[tuple[int, int, str]], list[str]]:
    """The whole file cut into regions (offset, size, the tensor's name or ""), and the tensors that must be
    read apart: strided, or sharing bytes with another. A second name for the same bytes is not checked."""
    regions: list[tuple[int, int, str]] = []
    apart: list[str] = []
    done: set[tuple[int, int, torch.dtype]] = set()
    free = 0
    for name, entry in sorted(
        file.entries.items(), key=lambda item: (item[1].offset, item[0] not in matrices)
    ):
        place = (entry.offset, entry.span, entry.dtype)
        plain = entry.dtype.is_floating_point and not entry.quantised
        if not entry.span or not (plain or (name in matrices and entry.offset >= free)):
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


def _measure(block: Tensor, entry: TensorEntry, name: str) -> tuple[float, float]:
    """Bounds of the numbers in a part of a file, of whole and quantised ones of their bytes."""
    if entry.quantised or not entry.dtype.is_floating_point:
        least, most = torch.aminmax(block)
        return float(least), float(most)
    return _check_finite(block.view(entry.dtype), name)


def _check_finite(values: Tensor, name: str) -> tuple[float, float]:
    bounds = value_range(values)
    if math.isnan(bounds[0]):
        raise CheckpointError(
            "The weights hold values that are no numbers.",
            found=f"NaN or infinity in {name}",
            expected="finite numbers",
            fix="the file was damaged or badly converted: download it again",
        )
    return bounds


def _constant_error(file: TensorFile, name: str) -> CheckpointError:
    entry = file.entries[name]
    value = "zeros" if not any(file.bytes(entry.offset, min(entry.span, 8))) else "equal numbers"
    return CheckpointError(
        "The weights are not those of a trained network.",
        found=f"only {value} in {name}, all {entry.numel:,}",
        expected="numbers that differ",
        fix="the file was damaged, or never filled: download or convert it again",
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


def examined_path() -> Path | None:
    """Where the command and ComfyUI remember verified files, if there is a place."""
    return cache_path("examined.json")


class FileVerifier:
    """Verifies each file once, and continues a stopped pass; keeps the hashes in a JSON file, if it has a
    path."""

    def __init__(self, cache_path: Path | None = None, open_progress: OpenProgress = no_display) -> None:
        self._known, self._open_progress = FileHashCache(cache_path), open_progress

    def get_hash(self, file: TensorFile, used: Callable[[], Collection[str]] = tuple) -> str:
        """The file's hash. ``used`` returns names of tensors that a network uses. Raises ``CheckpointError``,
        also for a file that is changed again and again."""
        for _ in range(MAX_PASSES):
            file.renew()
            digest = self._examine(file, used)
            if file.is_untouched():
                return digest
        raise file.change_error()

    def _examine(self, file: TensorFile, used: Callable[[], Collection[str]]) -> str:
        size, seen = file.fingerprint.size, list(astuple(file.fingerprint))
        known = self._known.recall(file.path, seen)
        if isinstance(known.get("sha256"), str):
            return str(known["sha256"])

        def save(parts: VerifiedParts) -> None:
            self._known.remember(file.path, seen, parts._asdict())

        await_tick(seen)
        with self._open_progress(f"checking {file.path.name}", size) as progress:
            done = _read_parts(known, size)
            digest = verify_file(file, progress, used=used(), done=done, save=save)
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
