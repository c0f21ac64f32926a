"""Verify a weights file in one pass, front to back: its checksums, its numbers, and its own hash."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..progress import OpenProgress, ProgressCallback, no_display, no_progress
from ..storage.hashing import FileHashCache, hash_blocks, raw_bytes
from .tensor_file import TensorFile

BLOCK_BYTES = 16 << 20


def verify_file(file: TensorFile, progress: ProgressCallback = no_progress) -> str:
    """Read every byte; return the file's SHA-256. Raises ``CheckpointError`` for a member whose checksum
    differs from the file's own, and for a tensor with NaN or infinite values, by its name."""
    checks = _Checksums(file)
    regions, apart = _split_regions(file)

    def check_blocks() -> Iterator[memoryview]:
        for offset, size, tensor in regions:
            for start in range(0, size, BLOCK_BYTES):
                block = file.raw(offset + start, min(BLOCK_BYTES, size - start))
                raw = raw_bytes(block)
                checks.update(raw)
                if tensor:
                    _check_finite(block.view(file.entries[tensor].dtype), tensor)
                progress(len(raw))
                yield raw

    digest = hash_blocks(check_blocks())
    for tensor in apart:
        for piece in file.pieces(tensor, 0, file.entries[tensor].numel, BLOCK_BYTES // 8):
            _check_finite(piece, tensor)
    return digest


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
    if values.element_size() == 1:  # fp8
        values = values.float()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            "The weights hold values that are no numbers.",
            found=f"NaN or infinity in {name}",
            expected="finite numbers",
            fix="the file was damaged or badly converted: download it again",
        )


class _Checksums:
    """Follows the pass and compares each member's CRC-32 when its end has passed."""

    def __init__(self, file: TensorFile) -> None:
        self._waiting = sorted((m for m in file.members if m.size), key=lambda m: m.offset, reverse=True)
        self._at, self._crc = 0, 0

    def update(self, raw: memoryview) -> None:
        end = self._at + len(raw)
        while self._waiting and self._waiting[-1].offset < end:
            member = self._waiting[-1]
            first, last = max(member.offset, self._at), min(member.offset + member.size, end)
            self._crc = zlib.crc32(raw[first - self._at : last - self._at], self._crc)
            if last < member.offset + member.size:
                break
            if self._crc != member.crc:
                raise CheckpointError(
                    "The weights file is damaged.",
                    found=f"{member.name}, whose checksum differs",
                    expected="the bytes that were written",
                    fix="download the file again",
                )
            self._crc = 0
            self._waiting.pop()
        self._at = end


class FileVerifier:
    """Verifies each file once; keeps the hashes in a JSON file, if it has a path."""

    def __init__(self, cache_path: Path | None = None, open_progress: OpenProgress = no_display) -> None:
        self._hashes, self._open_progress = FileHashCache(cache_path), open_progress

    def get_hash(self, file: TensorFile) -> str:
        """The file's SHA-256. Raises ``CheckpointError``."""

        def verify(path: Path) -> str:
            with self._open_progress(f"checking {path.name}", file.fingerprint.size) as progress:
                return verify_file(file, progress)

        file.check_unchanged()
        return self._hashes.get(file.path, verify)
