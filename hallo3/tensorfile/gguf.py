"""GGUF files: the ``gguf`` library says what they hold and turns quantised numbers into floats; the bytes are
read by position like all others."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError
from .layout import Entry, check_shape, damaged

_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}


def read_gguf(path: Path, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors of a GGUF file of ``size`` bytes, and its architecture.

    Raises ``DependencyError`` without the library, ``CheckpointError`` for a file that it cannot read.
    """
    library = _library()
    try:
        reader = library.GGUFReader(str(path))
        tensors, fields = list(reader.tensors), reader.fields
    except Exception as error:  # the library checks little: a damaged file raises whatever numpy does
        raise CheckpointError(
            "The GGUF file cannot be read.",
            found=f"{type(error).__name__}: {error}"[:200],
            expected="a complete GGUF file",
            do="download it again",
        ) from error
    entries: dict[str, Entry] = {}
    for tensor in tensors:
        name, shape = str(tensor.name), tuple(int(extent) for extent in reversed(tensor.shape))
        check_shape(shape, repr(name[:80]))
        kind, offset, stored = str(tensor.tensor_type.name), int(tensor.data_offset), int(tensor.n_bytes)
        if offset < 0 or offset + stored > size:
            raise damaged(f"{name[:80]!r} of {stored:,} bytes at {offset:,}", "tensors inside the file")
        plain = _PLAIN.get(kind)
        entries[name] = (
            Entry(plain, shape, offset)
            if plain is not None
            else Entry(torch.float32, shape, offset, quantised=kind, stored=stored)
        )
    architecture = fields.get("general.architecture")
    return entries, {"architecture": str(architecture.contents())} if architecture is not None else {}


def dequantised(raw: Tensor, entry: Entry) -> Tensor:
    """A quantised tensor's bytes -> its values in float32. Raises ``CheckpointError`` for a kind that the
    library cannot turn into floats."""
    library = _library()
    kind = library.GGMLQuantizationType[entry.quantised]
    try:
        shape = library.quant_shape_to_byte_shape(entry.shape, kind)
        values = library.quants.dequantize(raw.numpy().reshape(shape), kind)
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(
            "A GGUF quantisation is not read.",
            found=f"{entry.quantised}: {error}",
            expected="one that the gguf library turns into floats",
            do="use a file of Q8_0, Q6_K, Q5_K, Q4_K or 16 bits",
        ) from error
    return torch.from_numpy(values).reshape(entry.shape)


def _library() -> Any:
    try:
        return import_module("gguf")
    except ImportError as error:
        raise DependencyError(
            "GGUF files need a library that is not installed.",
            found=str(error),
            do="pip install gguf, or use safetensors",
        ) from error
