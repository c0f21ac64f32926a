"""A part of a checkpoint -> a safetensors file of ours, streamed: a few blocks in memory, whatever the size.

What to write is decided here (:class:`Recipe`); writing it so that a stop loses little is ``journal``'s.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, cast
from zlib import crc32

import torch
from torch import Tensor

from ..errors import OutputError
from ..quantization.fp8 import FP8, fp8_scale, to_fp8
from ..quantization.precision import Precision
from ..storage.atomic import DISK_FULL, SYSTEM, TEMPORARY_SUFFIX, write_atomic
from .component import METADATA_KEY, StoredComponent, narrowed
from .tensor_entry import header_bytes
from .verify import Watch, unwatched

BLOCK = 4 << 20
"""Elements in memory at a time."""
FORMAT = json.dumps({"format": "float8_e4m3fn"}).encode()
"""What ComfyUI reads beside a layer to know how its weight is quantised."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be written: ``blocks`` makes its elements, flat, in order."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class OutputFile:
    """A whole file to be written: its header, and then its items one after the other."""

    header: bytes
    items: tuple[OutputTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(item.nbytes for item in self.items)

    def blocks(self, start: int) -> Iterator[bytes]:
        """The file's bytes from ``start``, which is the beginning or an item's."""
        position = 0
        if start == 0:
            yield self.header
        position = len(self.header)
        for item in self.items:
            if position >= start:
                for block in item.blocks():
                    yield _bytes(block)
            position += item.nbytes

    @cached_property
    def borders(self) -> frozenset[int]:
        """Where items begin and end: from there a stopped file can be gone on with."""
        sizes = (item.nbytes for item in self.items)
        return frozenset(accumulate(sizes, initial=len(self.header)))


def plan_output(
    found: StoredComponent, precision: Precision, says: Mapping[str, Any], watch: Watch = unwatched
) -> OutputFile:
    """How a part is written in a precision; ``says`` becomes the file's metadata.

    For fp8 every matrix is read once here, to find its scale. Raises ``CheckpointError``.
    """
    items: list[OutputTensor] = []
    scratch = torch.empty(BLOCK if precision.fp8_weights else 0)
    for name in found.made:
        if precision.is_fp8(name):
            items += _eight_bit(found, name, scratch, watch)
        else:
            items.append(_plain(found, name, precision.compute))
    items.sort(key=lambda item: -item.dtype.itemsize)  # so that each begins where its type may
    names = ((item.name, item.dtype, item.shape) for item in items)
    return OutputFile(header_bytes(names, {METADATA_KEY: json.dumps(says)}), tuple(items))


def _plain(found: StoredComponent, name: str, compute: torch.dtype) -> OutputTensor:
    stored = found.dtype(name)
    dtype = compute if stored.is_floating_point or found.scaled(name) else stored

    def blocks() -> Iterator[Tensor]:
        if found.scaled(name):
            yield from found.tensor(name, dtype).flatten().split(BLOCK)
            return
        for piece in found.pieces(name, BLOCK):
            yield narrowed(piece, dtype, name)

    return OutputTensor(name, dtype, found.made[name].shape, blocks)


def _eight_bit(found: StoredComponent, name: str, scratch: Tensor, watch: Watch) -> list[OutputTensor]:
    """The matrix, its scale, and the note by which ComfyUI knows both. ``scratch`` holds a block in float32:
    made anew each time, blocks of many sizes leave holes in memory that add up."""
    layer = name.removesuffix(".weight")
    note = torch.tensor(list(FORMAT), dtype=torch.uint8)
    scale = found.scale(name)
    kept = found.dtype(name) == FP8 and (scale is None or scale.numel() == 1)
    if kept:
        scale = torch.ones(()) if scale is None else scale.reshape(())
    else:
        largest = torch.zeros(())
        for piece in _values(found, name):
            least, most = torch.aminmax(scratch[: len(piece)].copy_(piece))  # abs() would make a copy
            largest = torch.maximum(largest, torch.maximum(-least, most))
            watch(piece.nbytes)
        scale = fp8_scale(largest)

    def blocks() -> Iterator[Tensor]:
        if kept:
            yield from found.pieces(name, BLOCK)
            return
        for piece in _values(found, name):
            yield to_fp8(scratch[: len(piece)].copy_(piece), scale)

    return [
        OutputTensor(name, FP8, found.made[name].shape, blocks),
        OutputTensor(f"{layer}.weight_scale", torch.float32, (), lambda: iter([scale.reshape(1)])),
        OutputTensor(f"{layer}.comfy_quant", torch.uint8, (len(FORMAT),), lambda: iter([note])),
    ]


def _values(found: StoredComponent, name: str) -> Iterator[Tensor]:
    if found.scaled(name):
        return iter(cast("tuple[Tensor, ...]", found.tensor(name, torch.float32).flatten().split(BLOCK)))
    return found.pieces(name, BLOCK)


def _bytes(block: Tensor) -> bytes:
    return block.contiguous().view(torch.uint8).numpy().tobytes()


SAFE_EVERY = 256 << 20
"""Bytes after which what was written is made safe."""


def write_output(recipe: OutputFile, path: Path, watch: Watch = unwatched) -> None:
    """The file at ``path``, going on where an earlier call of the same recipe was stopped.

    Raises ``OutputError`` if it cannot be written; what was written stays for the next call.
    """
    unfinished = path.with_name(path.name + TEMPORARY_SUFFIX)
    notes = path.with_name(path.name + TEMPORARY_SUFFIX + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        with os.fdopen(descriptor, "r+b") as file, _alone(file, unfinished):
            start, crc = _safe(notes, recipe, file)
            _check_room(path.parent, recipe.size - start)
            watch(start)
            _write(recipe, file, start, crc, notes, watch)
        SYSTEM.replace(unfinished, path)
        notes.unlink(missing_ok=True)
        SYSTEM.sync_folder(path.parent)
    except OSError as error:
        full = error.errno in DISK_FULL
        room = f"{recipe.size:,} bytes of room in a folder that you may write to"
        raise OutputError(
            "The converted weights cannot be written.",
            found=f"{error.filename or path}: {error.strerror or error}",
            expected=room if full else "a folder that you may write to",
            fix="free some space and run the same command again: it goes on where it stopped"
            if full
            else "choose another folder, or remove what is in the way",
        ) from error


def _write(recipe: OutputFile, file: IO[bytes], start: int, crc: int, notes: Path, watch: Watch) -> None:
    file.seek(start)
    file.truncate()
    unsafe, position = 0, start
    for block in recipe.blocks(start):
        file.write(block)
        watch(len(block))
        crc = crc32(block, crc)
        position += len(block)
        unsafe += len(block)
        if unsafe >= SAFE_EVERY and position in recipe.borders:
            _make_safe(file)
            _note(notes, recipe, position, crc)
            unsafe = 0
    _make_safe(file)


def _safe(notes: Path, recipe: OutputFile, file: IO[bytes]) -> tuple[int, int]:
    """How many bytes of this very recipe are in the unfinished file, by its journal and by their own
    checksum, which is the second value."""
    try:
        said: Any = json.loads(notes.read_text(encoding="utf-8"))
        written, crc = cast(int, said["written"]), cast(int, said["crc"])
        known = said["recipe"] == _name(recipe) and written in recipe.borders
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0, 0
    if not known or file.seek(0, os.SEEK_END) < written:
        return 0, 0
    file.seek(0)
    found, left = 0, written
    while left and (block := file.read(min(left, SAFE_EVERY, 16 << 20))):
        found = crc32(block, found)
        left -= len(block)
    return (written, crc) if found == crc and not left else (0, 0)


def _note(notes: Path, recipe: OutputFile, written: int, crc: int) -> None:
    note = {"recipe": _name(recipe), "written": written, "crc": crc}
    write_atomic(notes, [json.dumps(note).encode()])


def _name(recipe: OutputFile) -> str:
    """By which a recipe is known again: its header says all that decides the file."""
    return sha256(recipe.header).hexdigest()


def _make_safe(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            "There is not enough room for the converted weights.",
            found=f"{free:,} bytes free in {folder}",
            expected=f"{needed:,} more bytes",
            fix="free some space, or choose a folder on another disk",
        )


@contextmanager
def _alone(file: IO[bytes], path: Path) -> Generator[None]:
    """Hold the file against a second run; the hold ends with the process, however it ends."""
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    if not free or not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
        raise OutputError(
            "The file is being written by another run.",
            found=f"{path}" if free else f"{path}, held by another process",
            expected="one conversion at a time",
            fix="let the other one finish, or stop it first",
        )
    yield
