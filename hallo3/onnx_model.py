"""ONNX networks, run by onnxruntime: the published files, known by their SHA-256.

A hash says more than a check of the content could: an ONNX file can name files outside itself and operators
that are not ONNX's own. Of a file that the user accepts unverified only the inputs and outputs are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError, DependencyError, is_out_of_memory, sanitize
from .messages import logger
from .storage.files import describe_foreign
from .storage.hashing import hash_bytes

MAX_BYTES = 1 << 30
"""The largest of the published files has a quarter of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Words for errors: ``what`` the file is ("A face model"), what it ``belongs_to``, the ``terms`` of its
    weights, ``where`` to get it, what ``need``s onnxruntime ("Faces on photographs need"), and what to do
    ``instead`` of installing that; ``accept``: how to use another file."""

    what: str
    belongs_to: str
    terms: str
    where: str
    need: str
    instead: str
    accept: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The published file's ``sha256`` and ports: one float32 ``input`` (None: any size), and outputs whose
    last sizes are ``channels``, in rising order."""

    sha256: str
    input: tuple[int | None, ...]
    channels: tuple[int, ...]

    def __str__(self) -> str:
        one = f"one input {list(self.input)} of float32".replace("None", "any")
        return f"{one} and {len(self.channels)} outputs that end in {', '.join(map(str, self.channels))}"

    def fits(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether onnxruntime's inputs and outputs are those; a size that a file leaves open fits any."""
        if len(inputs) != 1 or len(outputs) != len(self.channels) or inputs[0].type != "tensor(float)":
            return False
        sizes = _sizes(inputs[0])
        if len(sizes) != len(self.input):
            return False
        same = all(None in pair or pair[0] == pair[1] for pair in zip(sizes, self.input, strict=True))
        last = [(_sizes(port) or [None])[-1] for port in outputs]
        known = sorted(size for size in last if size is not None)
        fit = len(known) < len(last) or known == list(self.channels)
        return same and fit


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
            outputs = self.session.run(None, {self.input: values.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no common base
            raise _run_error(self.path, self.origin, error) from error
        arrays = cast("list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]", outputs)
        return [torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays]


def open_network(path: Path, expected: Expected, origin: Origin, *, unverified: bool = False) -> Network:
    """Open the published network, or with ``unverified`` another one with the same inputs and outputs, with a
    warning. Raises ``CheckpointError`` for a missing or other file, before anything of it is run, and
    ``DependencyError`` without onnxruntime."""
    content = _read(path, origin)
    verified = hash_bytes(content) == expected.sha256
    if not verified and not unverified:
        foreign = describe_foreign(content)
        described = f"{foreign}{', ' * bool(foreign)}{len(content):,} bytes, SHA-256 {hash_bytes(content)}"
        raise CheckpointError(
            f"{origin.what}'s file is not the published one.",
            found=f"{path.name}: {described if content else 'an empty file'}",
            expected=f"{path.name} of {origin.belongs_to}, SHA-256 {expected.sha256}",
            fix=f"download the file again; {origin.accept}",
        )
    try:
        library = import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"{origin.need} a library that is not installed.",
            found=(str(error).splitlines() or ["onnxruntime cannot be imported"])[0],
            expected="onnxruntime 1.20 or newer",
            fix=f"pip install onnxruntime, or {origin.instead}",
        ) from error
    options = library.SessionOptions()
    options.log_severity_level = 4
    try:
        session = library.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise _run_error(path, origin, error) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not expected.fits(inputs, outputs):
        raise CheckpointError(
            f"{origin.what}'s file holds another network.",
            found=f"{path.name}: takes {_describe_ports(inputs)}, gives {_describe_ports(outputs)}",
            expected=str(expected),
            fix=f"use the file {path.name} of {origin.belongs_to}",
        )
    if not verified:
        logger.warning(f"{path.name} is not the published file: its results may be wrong.")
    return Network(session, inputs[0].name, path, origin)


def _sizes(port: Any) -> list[int | None]:
    return [size if isinstance(size, int) and size > 0 else None for size in port.shape]


def _describe_ports(ports: Sequence[Any]) -> str:
    shown = (f"{port.name} {['?' if s is None else s for s in _sizes(port)]}" for port in ports[:10])
    return sanitize("; ".join(shown).replace("'", "")) or "nothing"


def _read(path: Path, origin: Origin) -> bytes:
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            return path.read_bytes()
    except FileNotFoundError as error:
        raise missing(path, origin) from error
    except OSError as error:
        raise CheckpointError(
            f"{origin.what}'s file cannot be opened.",
            found=f"{path}: {error.strerror or type(error).__name__}",
            expected="a file that you may read",
            fix="check the path and its permissions",
        ) from error
    raise CheckpointError(
        f"{origin.what}'s file is too large.",
        found=f"{path.name}: {size:,} bytes",
        expected=f"at most {MAX_BYTES:,} bytes",
        fix=f"use the files of {origin.belongs_to}",
    )


def missing(path: Path, origin: Origin) -> CheckpointError:
    return CheckpointError(
        f"{origin.what}'s file is missing. {origin.terms}",
        found=f"no file {path}",
        expected=f"the file {path.name} of {origin.belongs_to}",
        fix=origin.where,
    )


def _run_error(path: Path, origin: Origin, error: Exception) -> Exception:
    if is_out_of_memory(error):
        return MemoryError(f"{path.name}: {error}")
    return CheckpointError(
        f"{origin.what} cannot be run.",
        found=f"{path.name}: {(str(error).splitlines() or [type(error).__name__])[0]}",
        expected="a network that onnxruntime runs on the CPU",
        fix="download the file again, or install a newer onnxruntime",
    )
