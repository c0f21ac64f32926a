"""A component of a checkpoint -> a safetensors file of ours, streamed: a few blocks in memory at any size.

``plan_output`` decides what to write, ``write_output`` writes it; a file is complete or not there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import OutputError
from ..progress import ProgressCallback, no_progress
from ..quantization import FP8, Precision, fp8_scale, to_fp8
from ..storage.files import temporary_path, write_atomic, write_error
from ..storage.hashing import PartedHash, raw_bytes
from ..storage.lock import LOCK_FILENAME, lock_folder
from .component import BLOCK_ELEMENTS, METADATA_KEY, StoredComponent, cast_checked
from .tensor_entry import header_bytes

FP8_NOTE = json.dumps({"format": "float8_e4m3fn"}).encode()  # ComfyUI's mark of the layer


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to write: ``blocks`` makes its elements, flat, in order."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class OutputFile:
    header: bytes
    tensors: tuple[OutputTensor, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(math.prod(t.shape) * t.dtype.itemsize for t in self.tensors)

    def blocks(self) -> Iterator[bytes | memoryview]:
        yield self.header
        for tensor in self.tensors:
            yield from (raw_bytes(block.contiguous()) for block in tensor.blocks())


def plan_output(
    component: StoredComponent,
    precision: Precision,
    metadata: Mapping[str, Any],
    progress: ProgressCallback = no_progress,
) -> OutputFile:
    """Plan a component's file. For fp8 all matrices are read, for scales. Raises ``CheckpointError``."""
    tensors: list[OutputTensor] = []
    scratch = torch.empty(BLOCK_ELEMENTS if precision.fp8_weights else 0)
    for name in component.assemblies:
        if precision.is_fp8(name):
            tensors += _fp8(component, name, scratch, progress)
        else:
            tensors.append(_plain(component, name, precision.compute))
    tensors.sort(key=lambda tensor: -tensor.dtype.itemsize)  # each is aligned to its type
    layout = ((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
    return OutputFile(header_bytes(layout, {METADATA_KEY: json.dumps(metadata)}), tuple(tensors))


def _plain(component: StoredComponent, name: str, compute: torch.dtype) -> OutputTensor:
    stored = component.dtype(name)
    dtype = compute if stored.is_floating_point or component.scaled(name) else stored

    def blocks() -> Iterator[Tensor]:
        for block in _values(component, name):
            yield cast_checked(block, dtype, name)

    return OutputTensor(name, dtype, component.assemblies[name].shape, blocks)


def _fp8(
    component: StoredComponent, name: str, scratch: Tensor, progress: ProgressCallback
) -> list[OutputTensor]:
    """The matrix, its scale, and the note by which ComfyUI knows both. ``scratch`` holds a block in float32:
    blocks of many sizes would leave holes in memory that add up."""
    scale = component.scale(name)
    keep = component.dtype(name) == FP8 and (scale is None or scale.numel() == 1)
    if keep:
        scale = torch.ones(1) if scale is None else scale.reshape(1)
    else:
        largest = torch.zeros(())
        for block in _values(component, name):
            least, most = torch.aminmax(scratch[: len(block)].copy_(block))  # abs() would make a copy
            largest = torch.maximum(largest, torch.maximum(-least, most))
            progress(block.nbytes)
        scale = fp8_scale(largest).reshape(1)

    def blocks() -> Iterator[Tensor]:
        if keep:
            yield from component.pieces(name, BLOCK_ELEMENTS)
            return
        for block in _values(component, name):
            yield to_fp8(scratch[: len(block)].copy_(block), scale.reshape(()))

    layer = name.removesuffix(".weight")
    note = torch.tensor(list(FP8_NOTE), dtype=torch.uint8)
    return [
        OutputTensor(name, FP8, component.assemblies[name].shape, blocks),
        OutputTensor(f"{layer}.weight_scale", torch.float32, (), lambda: iter([scale])),
        OutputTensor(f"{layer}.comfy_quant", torch.uint8, (len(FP8_NOTE),), lambda: iter([note])),
    ]


def _values(component: StoredComponent, name: str) -> Iterator[Tensor]:
    """A tensor's elements in blocks; those of a scaled one in float32, multiplied by the scale."""
    if component.scaled(name):
        return component.values(name, torch.float32)
    return component.pieces(name, BLOCK_ELEMENTS)


def write_output(output: OutputFile, path: Path, progress: ProgressCallback = no_progress) -> str:
    """Returns the file's hash. Raises ``OutputError`` if the file cannot be written, or another run writes to
    its folder."""
    hashed = PartedHash()

    def watched() -> Iterator[bytes | memoryview]:
        for block in output.blocks():
            yield block
            for piece in hashed.split(block):
                hashed.update(piece)
            progress(len(block))

    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder, path.name, note=False):
            temporary_path(path).unlink(missing_ok=True)  # of a run that was stopped
            free = shutil.disk_usage(folder).free
            if output.size > free:
                raise OutputError(
                    "There is not enough room for the converted weights.",
                    found=f"{free:,} bytes free in {folder}",
                    expected=f"{output.size:,} bytes",
                    fix="free some space, or choose a folder on another disk",
                )
            write_atomic(path, watched())
            with suppress(OSError):  # Windows keeps open files
                (folder / LOCK_FILENAME).unlink()
    except OSError as error:
        raise write_error("The converted weights cannot be written.", path, error, output.size) from error
    return hashed.hexdigest()
