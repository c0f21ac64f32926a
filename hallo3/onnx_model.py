"""ONNX networks, run by onnxruntime: the published files, known by their SHA-256.

A hash says more than a check of the content could. Of a file that the user accepts unverified, onnxruntime
gets only what holds no control flow, no operators but ONNX's own and no weights outside of itself; then its
inputs and outputs are checked. ``onnx.load`` would parse all of it, weights too, and is one more library; few
of onnx.proto's fields matter here, so `find_forbidden` steps from field to field. A switch of onnxruntime
that refuses the same would replace it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError, DependencyError, is_out_of_memory, sanitize
from .messages import logger
from .storage.files import describe_foreign, open_regular
from .storage.hashing import hash_bytes

MAX_BYTES = 1 << 30
"""The largest of the published files has a quarter of it."""
MAX_ARENA_BYTES = 6 << 30
"""Of all that an unverified file computes; the vocal separator takes 2.5 GB."""
MAX_FIELDS = 200_000
"""Of an unverified file; the published ones have at most some thousands."""
CONTROL_FLOW = (b"Loop", b"If", b"Scan", b"SequenceMap")
PLAIN_DOMAINS = (b"", b"ai.onnx")
"""Where ONNX's own operators are."""
_SPARSE, _SUBGRAPH = "sparse weights", "a graph inside an operator, as of Loop, If and Scan"
_FORBIDDEN = {
    ("model", 20): "training steps",
    ("model", 25): "functions",
    ("graph", 15): _SPARSE,
    **{("attribute", number): _SUBGRAPH for number in (6, 11)},
    **{("attribute", number): _SPARSE for number in (22, 23)},
    ("tensor", 13): "weights in another file",
}
"""Fields by message and number (onnx.proto), and what they hold."""
_PARTS = {
    ("model", 7): "graph",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("node", 5): "attribute",
    **{("attribute", number): "tensor" for number in (5, 10)},
}
"""Fields that are messages to look into."""


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
            outputs = cast("list[Any]", self.session.run(None, {self.input: values.contiguous().numpy()}))
            return [torch.from_numpy(np.array(array, dtype=np.float32)) for array in outputs]
        except Exception as error:  # onnxruntime's errors have no common base; texts are no numbers
            raise _run_error(self.path, self.origin, error) from error


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
    if not verified and (forbidden := find_forbidden(content)):
        raise CheckpointError(
            f"{origin.what}'s file is refused, also unverified.",
            found=f"{path.name}: {forbidden}",
            expected="an ONNX model of ONNX's own operators, without control flow, with all weights inside",
            fix=f"use the file {path.name} of {origin.belongs_to}",
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
    more: dict[str, Any] = {}
    if not verified:
        _limit_memory(library, options)
        more["disabled_optimizers"] = ["ConstantFolding"]  # onnxruntime 1.20 computes without the limit there
    try:
        session = library.InferenceSession(content, options, providers=["CPUExecutionProvider"], **more)
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


def _limit_memory(library: Any, options: Any) -> None:
    """Let a session allocate up to ``MAX_ARENA_BYTES``: a file of a hundred bytes can ask for any amount. The
    allocator is the process', and is registered once."""
    memory = library.OrtMemoryInfo(
        "Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT
    )
    limits = library.OrtArenaCfg({"max_mem": MAX_ARENA_BYTES, "arena_extend_strategy": 1})
    with suppress(Exception):  # of onnxruntime's own: registered before
        library.create_and_register_allocator(memory, limits)
    options.add_session_config_entry("session.use_env_allocators", "1")


def find_forbidden(content: bytes) -> str:
    """What of an ONNX model is not run unverified; "" for a model without any such part."""
    if content[4:8] == b"ORTM":  # also where all of it is a message of protobuf
        return "a model in onnxruntime's own form"
    waiting, count, graphs = [("model", memoryview(content))], 0, 0
    try:
        while waiting:
            message, data = waiting.pop()
            for number, value in read_fields(data):
                count += 1
                if count > MAX_FIELDS:
                    return f"more than {MAX_FIELDS:,} parts"
                place = (message, number)
                if isinstance(value, int):
                    if place == ("tensor", 14) and value:
                        return _FORBIDDEN["tensor", 13]
                elif place in _FORBIDDEN:
                    return _FORBIDDEN[place]
                elif place in _PARTS:
                    graphs += place == ("model", 7)
                    waiting.append((_PARTS[place], value))
                elif place == ("node", 4) and (name := bytes(value[:20])) in CONTROL_FLOW:
                    return f"the operator {name.decode()}"
                elif place == ("node", 7) and (domain := bytes(value[:60])) not in PLAIN_DOMAINS:
                    return f"an operator of {domain!r}, which is not ONNX's own"
    except (ValueError, IndexError):
        return describe_foreign(content) or "no ONNX model, or not a whole one"
    return "" if graphs == 1 else f"{graphs} graphs, where a model has one"


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: whole numbers, and the bytes of everything else. Raises
    ``ValueError`` or ``IndexError`` for what is none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(kind, len(message))
        if number == 0 or at + size > len(message):
            raise ValueError("a part reaches beyond the end")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")


def _sizes(port: Any) -> list[int | None]:
    return [size if isinstance(size, int) and size > 0 else None for size in port.shape]


def _describe_ports(ports: Sequence[Any]) -> str:
    shown = (f"{port.name} {['?' if s is None else s for s in _sizes(port)]}" for port in ports[:10])
    return sanitize("; ".join(shown).replace("'", "")) or "nothing"


def _read(path: Path, origin: Origin) -> bytes:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_BYTES:
                return file.read(MAX_BYTES)
    except FileNotFoundError as error:
        raise missing(path, origin) from error
    except OSError as error:
        raise CheckpointError(
            f"{origin.what}'s file cannot be opened.",
            found=f"{path}: {'a folder' if path.is_dir() else error.strerror or type(error).__name__}",
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
        f"{origin.what}'s file is missing.",
        found=f"no file {path}",
        expected=f"the file {path.name} of {origin.belongs_to}. {origin.terms}",
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
