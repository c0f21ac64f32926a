"""A small network in an ONNX file: looked through first, then run by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError, is_short_of_memory
from .walk import Port, read_ports

LARGEST = 1 << 30
"""Bytes of a file that are read at most; the larger of the two real ones has a quarter of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is said of a file where something is wrong with it: ``what`` it is ("A face model"), what it
    ``belongs_to``, on which ``terms`` its weights may be used, ``where`` to get it, what ``need``s
    onnxruntime ("Faces on photographs need"), and what to do ``instead`` of installing that."""

    what: str
    belongs_to: str
    terms: str
    where: str
    need: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a network must take and give: sizes that may be anything are None, and a size that a file
    leaves open fits any."""

    input: tuple[int | None, ...]
    outputs: int
    channels: tuple[int, ...]
    """The last size of every output, in rising order."""

    def __str__(self) -> str:
        return (
            f"one input {list(self.input)} of float32 and {self.outputs} outputs that end in "
            f"{', '.join(str(size) for size in self.channels)}".replace("None", "any")
        )

    def fits(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> bool:
        """Whether a file's inputs and outputs are those."""
        if len(inputs) != 1 or len(outputs) != self.outputs or not inputs[0].is_float:
            return False
        found = inputs[0].shape
        if len(found) != len(self.input) or not all(map(_alike, found, self.input)):
            return False
        last = [port.shape[-1] if port.shape else None for port in outputs]
        known = [size for size in last if size is not None]
        return len(known) < len(last) or sorted(known) == list(self.channels)


def _alike(found: int | None, wanted: int | None) -> bool:
    return found is None or wanted is None or found == wanted


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is ready to run. ``session`` is onnxruntime's; ``input`` is its input's name."""

    session: Any
    input: str
    path: Path
    origin: Origin

    def __call__(self, values: Tensor) -> list[Tensor]:
        """All outputs of float32 ``values``, in the file's order. Raises ``CheckpointError`` when the
        network cannot be run on them, ``MemoryError`` when memory runs out."""
        try:
            found = self.session.run(None, {self.input: values.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no common base
            raise _failed(self.path, self.origin, error) from error
        arrays = cast("list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]", found)
        return [torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays]


def open_network(path: Path, expected: Expected, origin: Origin) -> Network:
    """The network in a file, if it is what is expected; checked before anything of it is run.

    Raises ``CheckpointError`` for a missing, damaged or other file and for one that reaches beyond itself,
    ``DependencyError`` without onnxruntime.
    """
    content = _read(path, origin)
    ports = read_ports(content, path)
    if not expected.fits(ports.inputs, ports.outputs):
        inputs, outputs = (
            "; ".join(str(port) for port in ports_[:10]) or "nothing"
            for ports_ in (ports.inputs, ports.outputs)
        )
        raise CheckpointError(
            f"{origin.what}'s file holds another network.",
            found=f"{path.name}: takes {inputs}, gives {outputs}",
            expected=str(expected),
            do=f"use the file {path.name} of {origin.belongs_to}",
        )
    library = _library(origin)
    options = library.SessionOptions()
    options.log_severity_level = 4
    try:
        session = library.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise _failed(path, origin, error) from error
    return Network(session, ports.inputs[0].name, path, origin)


def _read(path: Path, origin: Origin) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(
                f"{origin.what}'s file is too large.",
                found=f"{path.name}: {path.stat().st_size} bytes",
                expected=f"at most {LARGEST} bytes",
                do=f"use the files of {origin.belongs_to}",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise missing(path, origin) from error
    except OSError as error:
        raise CheckpointError(
            f"{origin.what}'s file cannot be opened.",
            found=f"{path}: {error.strerror or type(error).__name__}",
            expected="a file that may be read",
            do="check the path and who may read it",
        ) from error


def missing(path: Path, origin: Origin) -> CheckpointError:
    """That a file is not there, where to get it, and on which terms."""
    return CheckpointError(
        f"{origin.what}'s file is missing. {origin.terms}",
        found=f"no file {path}",
        expected=f"the file {path.name} of {origin.belongs_to}",
        do=origin.where,
    )


def _failed(path: Path, origin: Origin, error: Exception) -> Exception:
    if is_short_of_memory(error):
        return MemoryError(f"{path.name}: {error}")
    return CheckpointError(
        f"{origin.what} cannot be run.",
        found=f"{path.name}: {(str(error).splitlines() or [type(error).__name__])[0]}",
        expected="a network that onnxruntime runs on the CPU",
        do="download the file again, or install a newer onnxruntime",
    )


def _library(origin: Origin) -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"{origin.need} a library that is not installed.",
            found=(str(error).splitlines() or ["onnxruntime cannot be imported"])[0],
            expected="onnxruntime 1.20 or newer",
            do=f"pip install onnxruntime, or {origin.instead}",
        ) from error
