"""Where a tensor lies in a file, and the checks that every container's tensors pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
"""safetensors' names of the types that are read."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}

MOST_DIMENSIONS = 8
LARGEST_EXTENT = 1 << 40


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file: ``shape`` elements of ``dtype`` whose first byte is at ``offset``.

    ``stride`` is None for the usual order, the last axis fastest; ``span`` is the number of bytes from the
    first to the last element. A tensor whose numbers are ``quantised`` (GGUF's word for how) takes ``stored``
    bytes, and ``dtype`` is what they become.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...] | None = None
    quantised: str = ""
    stored: int = 0

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.numel * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        if self.quantised:
            return self.stored
        if self.stride is None or self.numel == 0:
            return self.nbytes
        last = sum((extent - 1) * step for extent, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse extents that are no tensor's. Raises ``CheckpointError``."""
    if len(shape) > MOST_DIMENSIONS or any(not 0 <= extent <= LARGEST_EXTENT for extent in shape):
        raise damaged(f"{name} has the shape {list(shape)[: MOST_DIMENSIONS + 1]}", "a tensor's shape")


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps between neighbours along each axis in the usual order."""
    steps: list[int] = []
    step = 1
    for extent in reversed(shape):
        steps.append(step)
        step *= max(extent, 1)
    return tuple(reversed(steps))


def strided(entry: Entry, stride: tuple[int, ...], room: int, name: str) -> Entry:
    """The entry read with these steps, which must visit each element once, inside ``room`` bytes.

    Raises ``CheckpointError``.
    """
    shape = entry.shape
    check_shape(shape, name)
    if len(stride) != len(shape) or any(not 0 <= step <= LARGEST_EXTENT for step in stride):
        raise damaged(f"{name} of shape {list(shape)} has the strides {list(stride)}", "one for each axis")
    usual = contiguous_stride(shape)
    same = all(s == u or e <= 1 for s, u, e in zip(stride, usual, shape, strict=True))
    result = Entry(entry.dtype, shape, entry.offset, None if same else stride)
    if result.stride is not None and _overlaps(shape, stride):
        raise damaged(
            f"{name}: elements of {list(shape)} with strides {list(stride)} overlap", "none that do"
        )
    if result.span > room:
        raise damaged(f"{name} needs {result.span:,} bytes of {room:,}", "tensors inside their storage")
    return result


def _overlaps(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two elements can lie at the same place: axes in order of their steps must not reach over."""
    reach = 0
    for step, extent in sorted((s, e) for s, e in zip(stride, shape, strict=True) if e > 1):
        if step <= reach:
            return True
        reach += step * (extent - 1)
    return False


def damaged(found: str, expected: str) -> CheckpointError:
    """A container that contradicts itself; the caller's file name is added by ``explained``."""
    return CheckpointError(
        "The weights file is damaged, or was made to do harm.",
        found=found,
        expected=expected,
        do="download it again from its publisher; if it stays so, do not use it",
    )
