"""What an ONNX file says of itself, read without the library that would run it.

The format is protobuf (onnx.proto): numbered fields, nested messages. Only the fields that are needed are
looked at; weights are stepped over. What could reach beyond the file is refused before anything runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError, DependencyError, is_out_of_memory, sanitize

DEEPEST = 16
"""Levels of graphs inside graphs that are followed."""
PLAIN_DOMAINS = ("", "ai.onnx")
"""Where ONNX's own operators are; any other name is an extension."""
FLOAT = 1
FOREIGN = {
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"PK": "an archive that is still packed",
}
"""What is found in place of a model, by its first bytes."""
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE, _GRAPH_IN, _GRAPH_OUT = 1, 5, 15, 11, 12
_NODE_ATTRIBUTE, _NODE_OPERATOR, _NODE_DOMAIN = 5, 4, 7
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its ``name``, its ``shape`` with None for sizes that are open, and whether its
    numbers are float32."""

    name: str
    shape: tuple[int | None, ...]
    is_float: bool

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} [{sizes}]"


@dataclass(frozen=True, slots=True)
class Ports:
    """What a network takes and gives."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_ports(content: bytes, path: Path) -> Ports:
    """The inputs and outputs of the model in a file's ``content``; ``path`` is for messages.

    Raises ``CheckpointError`` for what is no model or cut short, and for weights outside the file, sparse
    ones, operators that are not ONNX's own, functions and training steps.
    """
    if (what := _foreign(content)) is not None:
        raise _refused(path, f"{what} ({len(content)} bytes)")
    graph: memoryview | None = None
    try:
        for number, value in _fields(memoryview(content)):
            if number == _MODEL_GRAPH:
                if graph is not None:  # protobuf would merge them
                    raise ValueError("several graphs")
                graph = _message(value)
            elif number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
                raise _unsafe(path, "functions or training steps inside the model")
            elif number == _MODEL_OPSETS:
                domains = [_text(each) for field, each in _fields(_message(value)) if field == 1]
                _check_domain("".join(domains), "of its own", path)
        if graph is None:
            raise ValueError("no graph")
        return _read_graph(graph, path)
    except (ValueError, IndexError) as error:
        raise _refused(path, f"damaged or cut short: {error} ({len(content)} bytes)") from error


def _foreign(content: bytes) -> str | None:
    if not content:
        return "an empty file"
    start = content[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((what for magic, what in FOREIGN.items() if start.startswith(magic)), None)


def _read_graph(graph: memoryview, path: Path) -> Ports:
    _check_graph(graph, path, 0)
    fields = list(_fields(graph))
    weights = {
        _text(value)
        for number, tensor in fields
        if number == _GRAPH_TENSOR
        for field, value in _fields(_message(tensor))
        if field == _TENSOR_NAME
    }
    inputs = [_port(_message(value)) for number, value in fields if number == _GRAPH_IN]
    outputs = [_port(_message(value)) for number, value in fields if number == _GRAPH_OUT]
    return Ports(tuple(port for port in inputs if port.name not in weights), tuple(outputs))


def _check_graph(graph: memoryview, path: Path, depth: int) -> None:
    if depth > DEEPEST:
        raise _unsafe(path, f"more than {DEEPEST} graphs inside each other")
    for number, value in _fields(graph):
        if number == _GRAPH_TENSOR:
            _check_tensor(_message(value), path)
        elif number == _GRAPH_SPARSE:
            raise _unsafe(path, "sparse weights")
        elif number == _GRAPH_NODE:
            _check_node(_message(value), path, depth)


def _check_node(node: memoryview, path: Path, depth: int) -> None:
    operator, domain = "", ""
    for number, value in _fields(node):
        if number == _NODE_OPERATOR:
            operator = _text(value)
        elif number == _NODE_DOMAIN:
            domain = _text(value)
        elif number == _NODE_ATTRIBUTE:
            for field, inner in _fields(_message(value)):
                if field in (5, 10):
                    _check_tensor(_message(inner), path)
                elif field in (6, 11):
                    _check_graph(_message(inner), path, depth + 1)
                elif field in (22, 23):
                    raise _unsafe(path, "sparse weights")
    _check_domain(domain, operator, path)


def _check_tensor(tensor: memoryview, path: Path) -> None:
    for number, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _unsafe(path, "weights that lie in another file")


def _check_domain(domain: str, operator: str, path: Path) -> None:
    if domain not in PLAIN_DOMAINS:
        raise _unsafe(path, f"operators {operator} in the domain {domain[:60]!r}")


def _port(value_info: memoryview) -> Port:
    """ValueInfoProto: name 1, type 2; of its tensor type 1: element type 1, shape 2 of dimensions 1."""
    name, shape, is_float = "", list[int | None](), False
    for number, value in _fields(value_info):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor = [each for kind, each in _fields(_message(value)) if kind == 1]
            for field, inner in (pair for each in tensor for pair in _fields(_message(each))):
                if field == 1:
                    is_float = inner == FLOAT
                elif field == 2:
                    sizes = [_message(each) for kind, each in _fields(_message(inner)) if kind == 1]
                    shape = [_size(size) for size in sizes]
    return Port(sanitize(name), tuple(shape), is_float)


def _size(dimension: memoryview) -> int | None:
    known = [value for number, value in _fields(dimension) if number == 1]
    return known[-1] if known and isinstance(known[-1], int) and known[-1] > 0 else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: whole numbers, and the bytes of everything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("no ONNX model")
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


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a part")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)[:1000]).decode("utf-8", "replace")


def _refused(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "The network's file cannot be read.",
        found=f"{path.name}: {found}",
        expected="an ONNX model",
        fix="download the file again",
    )


def _unsafe(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "The network's file is refused: it asks for more than its own content.",
        found=f"{path.name}: {found}",
        expected="one file with all its weights and ONNX's own operators",
        fix="download the file from where it is published",
    )


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
            fix=f"use the file {path.name} of {origin.belongs_to}",
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
                fix=f"use the files of {origin.belongs_to}",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise missing(path, origin) from error
    except OSError as error:
        raise CheckpointError(
            f"{origin.what}'s file cannot be opened.",
            found=f"{path}: {error.strerror or type(error).__name__}",
            expected="a file that may be read",
            fix="check the path and who may read it",
        ) from error


def missing(path: Path, origin: Origin) -> CheckpointError:
    """That a file is not there, where to get it, and on which terms."""
    return CheckpointError(
        f"{origin.what}'s file is missing. {origin.terms}",
        found=f"no file {path}",
        expected=f"the file {path.name} of {origin.belongs_to}",
        fix=origin.where,
    )


def _failed(path: Path, origin: Origin, error: Exception) -> Exception:
    if is_out_of_memory(error):
        return MemoryError(f"{path.name}: {error}")
    return CheckpointError(
        f"{origin.what} cannot be run.",
        found=f"{path.name}: {(str(error).splitlines() or [type(error).__name__])[0]}",
        expected="a network that onnxruntime runs on the CPU",
        fix="download the file again, or install a newer onnxruntime",
    )


def _library(origin: Origin) -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"{origin.need} a library that is not installed.",
            found=(str(error).splitlines() or ["onnxruntime cannot be imported"])[0],
            expected="onnxruntime 1.20 or newer",
            fix=f"pip install onnxruntime, or {origin.instead}",
        ) from error
