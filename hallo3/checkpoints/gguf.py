"""GGUF files: the header, read by position and within bounds.

``gguf.GGUFReader`` maps the whole file into memory and believes its lengths. The library is used for what it
knows of the formats of numbers, and to turn quantised ones into floats.
"""

from __future__ import annotations

import math
import struct
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError
from .tensor_entry import DTYPES, Read, TensorEntry, check_shape, damage_error

MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS, MAX_FIELDS, MAX_TEXTS = 20_000, 4_096, 1_000_000
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type
_TEXT, _ARRAY, _UINT32 = 8, 9, 4


class _Cursor:
    """Reads a header front to back, never beyond the file or its limit."""

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._end, self.at = read, min(size, MAX_HEADER_BYTES), 0
        self._window, self._from = b"", 0

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        begin = start - self._from
        if begin + count > len(self._window):
            self._window = self._read(start, min(max(count, 1 << 20), self._end - start))
            self._from, begin = start, 0
        return self._window[begin : begin + count]

    def skip(self, count: int) -> int:
        """Return the place before it."""
        if count > self._end - self.at:
            raise damage_error(f"a GGUF header that goes beyond {self._end:,} bytes", "one inside the file")
        self.at += count
        return self.at - count

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def skip_values(self, kind: int, count: int) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind] * count)
        elif kind == _TEXT and count <= MAX_TEXTS:
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            raise damage_error(f"{count:,} GGUF values of kind {kind}", "the format's own kinds")


def read_gguf(read: Read, size: int) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Tensors of a GGUF file of ``size`` bytes, and its architecture. Raises ``DependencyError`` without the
    library, ``CheckpointError`` for a file that contradicts itself."""
    library, cursor = _import_gguf(), _Cursor(read, size)
    cursor.skip(4)
    version, tensors, fields = cursor.number("<I"), cursor.number("<Q"), cursor.number("<Q")
    if version not in (2, 3) or tensors > MAX_TENSORS or fields > MAX_FIELDS:
        counts = f"GGUF version {version}, {tensors:,} tensors, {fields:,} fields"
        raise damage_error(counts, "version 2 or 3")
    metadata: dict[str, str] = {}
    alignment = 32
    for _ in range(fields):
        name, kind = cursor.text(), cursor.number("<I")
        if name == "general.architecture" and kind == _TEXT:
            metadata["architecture"] = cursor.text()[:80]
        elif name == "general.alignment" and kind == _UINT32:
            alignment = cursor.number("<I")
        elif kind == _ARRAY:
            cursor.skip_values(cursor.number("<I"), cursor.number("<Q"))
        else:
            cursor.skip_values(kind, 1)
    if alignment not in (8, 16, 32, 64, 128, 256, 4096):
        raise damage_error(f"a GGUF alignment of {alignment:,}", "32")
    rows: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(tensors):
        name, dimensions = cursor.text(), cursor.number("<I")
        if dimensions > 4:
            raise damage_error(f"{name[:80]!r} of {dimensions} dimensions", "up to four")
        shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))
        check_shape(shape, repr(name[:80]))
        rows.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
    start = -(-cursor.at // alignment) * alignment
    entries = {name: _entry(library, name, shape, kind, start + at) for name, shape, kind, at in rows}
    if len(entries) != len(rows):
        raise damage_error("two tensors of one name", "every name once")
    for name, entry in entries.items():
        if entry.offset + entry.span > size:
            place = f"{name[:80]!r} of {entry.span:,} bytes at {entry.offset:,}"
            raise damage_error(place, "tensors in the file")
    return entries, metadata


def _entry(library: Any, name: str, shape: tuple[int, ...], number: int, offset: int) -> TensorEntry:
    try:
        kind = library.GGMLQuantizationType(number)
        per, size = library.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        unknown = f"{name[:80]!r} of the unknown kind {number}"
        raise damage_error(unknown, "a kind the gguf library knows") from error
    plain = DTYPES.get(str(kind.name))
    if plain is not None:
        return TensorEntry(plain, shape, offset)
    if not shape or shape[-1] % per:
        raise damage_error(f"{name[:80]!r} of {list(shape)} in groups of {per}", "whole groups in every row")
    stored = math.prod(shape) // per * size
    return TensorEntry(torch.float32, shape, offset, quantised=str(kind.name), stored=stored)


def dequantize(raw: Tensor, entry: TensorEntry) -> Tensor:
    """A quantised tensor's values in float32. Raises ``CheckpointError`` for an unknown kind."""
    library = _import_gguf()
    kind = library.GGMLQuantizationType[entry.quantised]
    try:
        shape = library.quant_shape_to_byte_shape(entry.shape, kind)
        values = library.quants.dequantize(raw.numpy().reshape(shape), kind)
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(
            "A GGUF quantisation is not read.",
            found=f"{entry.quantised}: {error}",
            expected="one that the gguf library turns into floats",
            fix="use a file of Q8_0, Q6_K, Q5_K, Q4_K or 16 bits",
        ) from error
    return torch.from_numpy(values).reshape(entry.shape)


def _import_gguf() -> Any:
    try:
        return import_module("gguf")
    except ImportError as error:
        raise DependencyError(
            "GGUF files need a library that is not installed.",
            found=str(error),
            fix="pip install gguf, or use safetensors",
        ) from error
