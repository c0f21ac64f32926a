"""The header of a safetensors file, checked as strictly as the format defines it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_DIMENSIONS, MAX_EXTENT = 8, 1 << 40
Read = Callable[[int, int], bytes]  # (offset, size) -> exactly ``size`` bytes of the file


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in a file: ``shape`` elements of ``dtype`` whose first byte is at ``offset``. ``stride`` is
    None for the usual order, the last axis fastest; ``span`` is the number of bytes from the first to the
    last element. A tensor whose numbers are ``quantised`` (GGUF's word for how) takes ``stored`` bytes, and
    ``dtype`` is what they become."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...] | None = None
    quantised: str = ""
    stored: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def span(self) -> int:
        if self.quantised:
            return self.stored
        if self.stride is None or self.numel == 0:
            return self.nbytes
        last = sum((extent - 1) * step for extent, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse extents that are no tensor's. Raises ``CheckpointError``."""
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= extent <= MAX_EXTENT for extent in shape):
        raise damage_error(f"{name} has the shape {list(shape)[: MAX_DIMENSIONS + 1]}", "a tensor's shape")


def with_stride(entry: TensorEntry, stride: tuple[int, ...], room: int, name: str) -> TensorEntry:
    """The entry read with these steps; ``CheckpointError`` if they overlap, or leave ``room`` bytes."""
    shape = entry.shape
    check_shape(shape, name)
    if len(stride) != len(shape) or any(not 0 <= step <= MAX_EXTENT for step in stride):
        strides = f"{name} of shape {list(shape)} has the strides {list(stride)}"
        raise damage_error(strides, "one for each axis")
    usual = [math.prod(max(extent, 1) for extent in shape[axis:]) for axis in range(1, len(shape) + 1)]
    same = all(s == u or e <= 1 for s, u, e in zip(stride, usual, shape, strict=True))
    result = TensorEntry(entry.dtype, shape, entry.offset, None if same else stride)
    reach = 0
    for step, extent in sorted((s, e) for s, e in zip(stride, shape, strict=True) if e > 1):
        if result.stride is not None and step <= reach:  # a step must lead beyond the axes of smaller ones
            shown = f"{name}: elements of {list(shape)} with strides {list(stride)} overlap"
            raise damage_error(shown, "none that do")
        reach += step * (extent - 1)
    if result.span > room:
        raise damage_error(f"{name} needs {result.span:,} bytes of {room:,}", "tensors inside their storage")
    return result


def damage_error(found: str, expected: str) -> CheckpointError:
    """The error for a container that contradicts itself; ``TensorFile`` adds the file's name."""
    return CheckpointError(
        "The weights file is damaged or malicious.",
        found=found,
        expected=expected,
        fix="download it again from its publisher; if it stays so, do not use it",
    )


MAX_HEADER_BYTES, MAX_TENSORS = 16 << 20, 60_000  # the released model's: 300,000; 2,000
METADATA = "__metadata__"


def read_header(read: Read, size: int) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Tensors and metadata; ``CheckpointError`` for a file that is cut, padded or contradicts itself."""
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise damage_error(f"a header of {length:,} bytes", f"at most {MAX_HEADER_BYTES:,}")
    start = 8 + length
    if start > size:
        raise incomplete_error(f"{size:,} bytes", f"{start:,} bytes, by its header")
    fields = _parse_json(read(8, length))
    metadata = fields.pop(METADATA, {})
    texts = cast("dict[str, Any]", metadata).values() if isinstance(metadata, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise damage_error("metadata that is not text", "names and texts")
    entries = {name: _parse_entry(name, value, start) for name, value in fields.items()}
    free = start  # tensors fill the file to its end, without gaps and overlaps
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != free:
            kind = "a gap before" if entry.offset > free else "an overlap at"
            raise damage_error(f"{kind} {name[:80]!r}", "tensors one after the other")
        free += entry.nbytes
    if free > size:
        raise incomplete_error(f"{size:,} bytes", f"{free:,} bytes, by its header")
    if free < size:
        raise damage_error(f"{size - free:,} bytes behind the last tensor", "nothing behind it")
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


def incomplete_error(found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "The file is incomplete.",
        found=found,
        expected=expected,
        fix="download it again; it was cut, or is still being written",
    )


def _parse_json(raw: bytes) -> dict[str, Any]:
    for mark, most in ((b"{", MAX_TENSORS + 2), (b"[", 2 * MAX_TENSORS), (b",", 16 * MAX_TENSORS)):
        if raw.count(mark) > most:
            expected = f"at most {MAX_TENSORS:,} tensors"
            raise damage_error("a header of more names and numbers than a network has", expected)

    def check_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) != len(pairs):
            raise damage_error("a name twice in the header", "every name once")
        return fields

    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=check_unique)
    except (ValueError, RecursionError) as error:
        raise damage_error("a header that cannot be read", "JSON in UTF-8") from error
    if not isinstance(fields, dict):
        raise damage_error("a header that is no JSON object", "names of tensors")
    return cast("dict[str, Any]", fields)


def _parse_entry(name: str, value: Any, start: int) -> TensorEntry:
    shown = repr(name[:80])
    fields = cast("dict[str, Any]", value if isinstance(value, dict) else {})
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise damage_error(f"{shown} without type, shape and place", "all three, and nothing else")
    shape, place = _parse_numbers(fields["shape"], shown), _parse_numbers(fields["data_offsets"], shown)
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            "The file holds numbers of a type that is not read.",
            found=f"{shown} of type {str(fields['dtype'])[:20]}",
            expected=", ".join(DTYPES),
            fix="use a file in one of these types",
        )
    check_shape(shape, shown)
    if len(place) != 2 or place[1] - place[0] != math.prod(shape) * dtype.itemsize:
        position = f"{shown} of shape {list(shape)} at bytes {list(place)[:3]}"
        raise damage_error(position, "as many bytes as its shape needs")
    return TensorEntry(dtype, shape, start + place[0])


def _parse_numbers(value: Any, shown: str) -> tuple[int, ...]:
    items = tuple(cast("list[Any]", value)) if isinstance(value, list) else (None,)
    if not all(type(item) is int and item >= 0 for item in items):
        numbers = f"{shown} with {str(items)[:60]} for a shape or place"
        raise damage_error(numbers, "whole numbers, none below 0")
    return cast("tuple[int, ...]", items)
