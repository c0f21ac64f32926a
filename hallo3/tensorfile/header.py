"""The header of a safetensors file, checked as strictly as the format defines it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch

from ..errors import CheckpointError
from .layout import DTYPES, NAMES, Entry, check_shape, damaged

LARGEST, MOST = 16 << 20, 60_000
"""Bytes of a header, and tensors in it; that of the released model has 0.3 million and two thousand."""
METADATA = "__metadata__"


def read_header(read: Callable[[int, int], bytes], size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata of a safetensors file of ``size`` bytes; ``read(offset, size)`` reads it.

    Raises ``CheckpointError`` for a file that is cut, padded or contradicts itself.
    """
    length = int.from_bytes(read(0, 8), "little")
    if length > LARGEST:
        raise damaged(f"a header of {length:,} bytes", f"at most {LARGEST:,}")
    start = 8 + length
    if start > size:
        raise incomplete(size, start, "its header")
    fields = _parsed(read(8, length))
    metadata = fields.pop(METADATA, {})
    if not _is_text_map(metadata):
        raise damaged("metadata that is not text", "names and texts")
    entries = {name: _entry(name, value, start) for name, value in fields.items()}
    _check_places(entries, start, size)
    return entries, cast("dict[str, str]", metadata)


def header_bytes(
    tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The header of a safetensors file with tensors of these names, types and shapes, in this order."""
    fields: dict[str, Any] = {METADATA: dict(metadata)}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * dtype.itemsize
        fields[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def incomplete(size: int, needed: int, what: str) -> CheckpointError:
    """A file that ends before ``what`` does."""
    return CheckpointError(
        "The file is incomplete.",
        found=f"{size:,} bytes",
        expected=f"{needed:,} bytes, by {what}",
        do="download it again; it was cut, or is still being written",
    )


def _parsed(raw: bytes) -> dict[str, Any]:
    if raw.count(b"{") > MOST + 2 or raw.count(b"[") > 2 * MOST or raw.count(b",") > 16 * MOST:
        raise damaged("a header of more names and numbers than a network has", f"at most {MOST:,} tensors")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise damaged("a name twice in the header", "every name once")
        return found

    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged("a header that cannot be read", "JSON in UTF-8") from error
    if not isinstance(fields, dict):
        raise damaged("a header that is no JSON object", "names of tensors")
    return cast("dict[str, Any]", fields)


def _entry(name: str, value: Any, start: int) -> Entry:
    shown = repr(name[:80])
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise damaged(f"{shown} without type, shape and place", "all three, and nothing else")
    fields = cast("dict[str, Any]", value)
    shape, place = _numbers(fields["shape"], shown), _numbers(fields["data_offsets"], shown)
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            "The file holds numbers of a type that is not read.",
            found=f"{shown} of type {str(fields['dtype'])[:20]}",
            expected=", ".join(DTYPES),
            do="use a file in one of these types",
        )
    check_shape(shape, shown)
    if len(place) != 2 or place[1] - place[0] != math.prod(shape) * dtype.itemsize:
        raise damaged(
            f"{shown} of shape {list(shape)} at bytes {list(place)[:3]}", "as many bytes as its shape needs"
        )
    return Entry(dtype, shape, start + place[0])


def _numbers(value: Any, shown: str) -> tuple[int, ...]:
    items = tuple(cast("list[Any]", value)) if isinstance(value, list) else (None,)
    if not all(type(item) is int and item >= 0 for item in items):
        raise damaged(f"{shown} with {str(items)[:60]} for a shape or place", "whole numbers, none below 0")
    return cast("tuple[int, ...]", items)


def _check_places(entries: dict[str, Entry], start: int, size: int) -> None:
    """Tensors fill the file from the header to its end, without gaps and without overlaps."""
    free = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != free:
            kind = "a gap before" if entry.offset > free else "an overlap at"
            raise damaged(f"{kind} {name[:80]!r}", "tensors one after the other")
        free += entry.nbytes
    if free > size:
        raise incomplete(size, free, "its header")
    if free < size:
        raise damaged(f"{size - free:,} bytes behind the last tensor", "nothing behind it")


def _is_text_map(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(text, str) for text in cast("dict[str, Any]", value).values())
