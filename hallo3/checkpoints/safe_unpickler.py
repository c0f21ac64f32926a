"""The pickles inside torch files, interpreted as data: a small machine for the instructions that torch and
DeepSpeed write, in which a name is only a name. Nothing is imported, nothing is called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import CheckpointError
from .tensor_entry import damaged

ORDERED = "collections OrderedDict"
PARAMETER = "torch._utils _rebuild_parameter"
TENSOR, TYPED_TENSOR = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"

_STORED = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
STORAGES: dict[str, torch.dtype] = {
    **{f"torch {name}Storage": dtype for name, dtype in _STORED.items()},
    "torch.storage UntypedStorage": torch.uint8,
    "torch UntypedStorage": torch.uint8,
}
"""Storages, and the type in which their length is counted."""

TYPES: dict[str, torch.dtype] = {
    f"torch {str(dtype).removeprefix('torch.')}": dtype
    for dtype in (*_STORED.values(), torch.float8_e4m3fn, torch.float8_e5m2)
}

_BUILTINS = ("set", "frozenset", "slice", "dict", "list", "complex", "bytearray")
_NUMPY = ("_reconstruct", "scalar", "_frombuffer")

INERT = frozenset(
    {
        *(f"{module} {name}" for module in ("__builtin__", "builtins") for name in _BUILTINS),
        *(
            f"{module} {name}"
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
            for name in _NUMPY
        ),
        "_codecs encode",
        "argparse Namespace",
        "collections defaultdict",
        "datetime date",
        "datetime datetime",
        "datetime timedelta",
        "numpy ndarray",
        "numpy dtype",
        "pathlib PosixPath",
        "pathlib PurePosixPath",
        "pathlib WindowsPath",
        "torch Generator",
        "torch Size",
        "torch device",
        "deepspeed.runtime.fp16.loss_scaler DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler LossScaler",
        "deepspeed.runtime.zero.config DeepSpeedZeroConfig",
        "deepspeed.runtime.zero.config ZeroStageEnum",
        "deepspeed.utils.tensor_fragment fragment_address",
        "deepspeed.utils.tensor_fragment tensor_fragment",
    }
)
"""Names whose objects become placeholders."""

CALLED = INERT | {ORDERED, PARAMETER, TENSOR, TYPED_TENSOR}
KNOWN = CALLED | frozenset(STORAGES) | frozenset(TYPES)


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle mentions. It stays a name."""

    path: str


@dataclass(frozen=True, slots=True)
class Inert:
    """Where an object of bookkeeping was."""

    path: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to bytes beside the pickle, as it was written: unchecked."""

    fields: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A tensor's description: the function that would build it, and from what; unchecked."""

    path: str
    arguments: tuple[Any, ...]


def refused(path: str) -> CheckpointError:
    """A name that no checkpoint of tensors needs, told for what it is."""
    module, _, name = path.partition(" ")
    dotted = path.replace(" ", ".")
    if module in ("torch", "torch.storage") and (
        name.endswith("Storage") or isinstance(vars(torch).get(name), torch.dtype)
    ):
        return CheckpointError(
            "The file holds numbers of a type that is not read.",
            found=dotted,
            expected=", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES.values()),
            fix="save the network's state_dict() in one of these",
        )
    if module.startswith(("torch.nn.", "__torch__")) or name == "DataParallel":
        return CheckpointError(
            "The file holds a whole program, not only its weights.",
            found=dotted,
            expected="a dictionary of tensors",
            fix="save its state_dict() instead, or take the weights as safetensors",
        )
    return CheckpointError(
        "The file asks for something to be run, which weights never need.",
        found=dotted,
        expected="tensors and the usual bookkeeping of torch and DeepSpeed",
        fix="do not open it with other programs; take the weights from their publisher",
    )


LARGEST = 16 << 20
"""Bytes of a pickle. The released checkpoint needs well under one million."""
MOST_STEPS = 400_000
_MANY = 1 << 31
_MARK = object()  # where a group of items begins on the stack


def interpret(data: bytes) -> Any:
    """The pickle's value, of dicts, lists, tuples, plain values and the classes above.

    Raises ``CheckpointError`` for whatever torch's and DeepSpeed's checkpoints do not contain.
    """
    if len(data) > LARGEST:
        raise damaged(f"a pickle of {len(data):,} bytes", f"at most {LARGEST:,}")
    return _Machine(data).run()


class _Machine:
    """A stack, a memo and a position; methods are the instructions of ``_STEPS``."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_STEPS):
            code = self.take(1)[0]
            if code == _STOP:
                value = self.pop()
                if self._stack:
                    raise _malformed("values are left over")
                return value
            step = _STEPS.get(code)
            if step is None:
                raise damaged(f"pickle instruction {code:#04x} at {self._at - 1}", "what torch.save writes")
            step(self)
        raise damaged(f"a pickle of more than {MOST_STEPS:,} instructions", "a few hundred thousand")

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise _malformed("it breaks off")
        self._at += count
        return piece

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 400)
        if end < 0:
            raise _malformed("a name has no end")
        raw, self._at = self._data[self._at : end], end + 1
        return raw.decode("utf-8", "replace")

    def top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _malformed("a value is missing")
        return self._stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self._stack.pop()
        return value

    def group(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise _malformed("a group has no beginning")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def number(self, form: str) -> None:
        self.push(self._number(form))

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))

    def text(self, form: str) -> None:
        self.push(self.take(self._number(form)).decode("utf-8", "replace"))

    def raw(self, form: str) -> None:
        self.push(self.take(self._number(form)))

    def frame(self) -> None:
        self.take(8)

    def protocol(self) -> None:
        version = self._number("<B")
        if version > 5:
            raise damaged(f"pickle protocol {version}", "a protocol up to 5")

    def put(self, form: str) -> None:
        index = self._number(form)
        if index > len(self._memo) + 1:
            raise damaged(f"memo entry {index:,} after {len(self._memo):,}", "entries one after the other")
        self._memo[index] = self.top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.top()

    def get(self, form: str) -> None:
        index = self._number(form)
        if index not in self._memo:
            raise _malformed(f"memo entry {index} is missing")
        self.push(self._memo[index])

    def gather(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def gather_inert(self) -> None:
        self.group()
        self.push(Inert("builtins frozenset"))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            cast("list[Any]", target).extend(items)
        elif not isinstance(target, Inert):
            raise _malformed("items go to what is no list")

    def update(self, pairs: list[Any]) -> None:
        target = self.top()
        if len(pairs) % 2:
            raise _malformed("a key has no value")
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict):
            raise _malformed("entries go to what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not (isinstance(key, str | bytes | None) or (isinstance(key, int) and -_MANY < key < _MANY)):
                raise damaged(f"a dictionary with a {type(key).__name__} as a key", "text or small numbers")
            cast("dict[Any, Any]", target)[key] = value

    def name(self, module: Any, name: Any) -> None:
        path = f"{module} {name}"[:400]
        if path not in KNOWN:
            raise refused(path)
        self.push(Name(path))

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _malformed("a name that is no text")
        self.name(module, name)

    def persistent(self) -> None:
        fields = self.pop()
        if not isinstance(fields, tuple):
            raise _malformed("a storage reference that is none")
        self.push(Storage(cast("tuple[Any, ...]", fields)))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Name) or function.path not in CALLED:
            raise _malformed("a call of what is not to be called")
        given = cast("tuple[Any, ...]", arguments)
        if function.path in INERT:
            self.push(Inert(function.path))
        elif function.path == ORDERED:
            self.push({})
        else:
            self.push(Rebuilt(function.path, given))

    def new(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(kind, Name) or kind.path not in INERT:
            raise _malformed("an object of what is no class")
        self.push(Inert(kind.path))

    def build(self) -> None:
        self.pop()
        if not isinstance(self.top(), Inert | dict):
            raise _malformed("attributes for what has none")


def _malformed(what: str) -> CheckpointError:
    return damaged(f"a pickle that no program wrote: {what}", "what torch.save writes")


_STOP = ord(".")
# Beside each code, pickletools' name for it.
_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,  # PROTO
    0x95: _Machine.frame,  # FRAME
    ord("("): lambda m: m.push(_MARK),  # MARK
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("K"): lambda m: m.number("<B"),  # BININT1
    ord("M"): lambda m: m.number("<H"),  # BININT2
    ord("J"): lambda m: m.number("<i"),  # BININT
    ord("G"): lambda m: m.number(">d"),  # BINFLOAT
    0x8A: _Machine.long,  # LONG1
    ord("X"): lambda m: m.text("<I"),  # BINUNICODE
    0x8C: lambda m: m.text("<B"),  # SHORT_BINUNICODE
    ord("C"): lambda m: m.raw("<B"),  # SHORT_BINBYTES
    ord("B"): lambda m: m.raw("<I"),  # BINBYTES
    ord("U"): lambda m: m.raw("<B"),  # SHORT_BINSTRING
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    0x85: lambda m: m.gather(1),  # TUPLE1
    0x86: lambda m: m.gather(2),  # TUPLE2
    0x87: lambda m: m.gather(3),  # TUPLE3
    ord("t"): lambda m: m.push(tuple(m.group())),  # TUPLE
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord("a"): lambda m: m.extend([m.pop()]),  # APPEND
    ord("e"): lambda m: m.extend(m.group()),  # APPENDS
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("s"): lambda m: m.update([m.pop(), m.pop()][::-1]),  # SETITEM
    ord("u"): lambda m: m.update(m.group()),  # SETITEMS
    0x8F: lambda m: m.push(Inert("builtins set")),  # EMPTY_SET
    0x90: lambda m: m.extend(m.group()),  # ADDITEMS
    0x91: _Machine.gather_inert,  # FROZENSET
    ord("q"): lambda m: m.put("<B"),  # BINPUT
    ord("r"): lambda m: m.put("<I"),  # LONG_BINPUT
    0x94: _Machine.memoize,  # MEMOIZE
    ord("h"): lambda m: m.get("<B"),  # BINGET
    ord("j"): lambda m: m.get("<I"),  # LONG_BINGET
    ord("c"): lambda m: m.name(m.line(), m.line()),  # GLOBAL
    0x93: _Machine.name_from_stack,  # STACK_GLOBAL
    ord("Q"): _Machine.persistent,  # BINPERSID
    ord("R"): _Machine.call,  # REDUCE
    0x81: _Machine.new,  # NEWOBJ
    ord("b"): _Machine.build,  # BUILD
}
