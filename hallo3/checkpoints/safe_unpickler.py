"""The pickles inside torch files, interpreted as data: nothing is imported, nothing is called.

``pickle`` and ``torch.load`` run what a file names; ``weights_only=True`` has had holes (CVE-2025-32434,
CVE-2026-24747). ``pickletools.genops`` only decodes instructions; this module gives a meaning to those
that torch and DeepSpeed write, and a name stays a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pickletools import genops
from typing import Any, cast

import torch

from ..errors import CheckpointError
from .tensor_entry import damage_error

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

_BUILTINS, _ARRAYS = "set frozenset slice dict list complex bytearray", "_reconstruct scalar _frombuffer"
_INERT = {
    "__builtin__": _BUILTINS,
    "builtins": _BUILTINS,
    "numpy.core.multiarray": _ARRAYS,
    "numpy._core.multiarray": _ARRAYS,
    "numpy": "ndarray dtype",
    "_codecs": "encode",
    "argparse": "Namespace",
    "collections": "defaultdict",
    "datetime": "date datetime timedelta",
    "pathlib": "PosixPath PurePosixPath WindowsPath",
    "torch": "Generator Size device",
    "deepspeed.runtime.fp16.loss_scaler": "DynamicLossScaler LossScaler",
    "deepspeed.runtime.zero.config": "DeepSpeedZeroConfig ZeroStageEnum",
    "deepspeed.utils.tensor_fragment": "fragment_address tensor_fragment",
}
INERT = frozenset(f"{module} {name}" for module, names in _INERT.items() for name in names.split())

ALLOWED_CALLS = INERT | {ORDERED, PARAMETER, TENSOR, TYPED_TENSOR}
ALLOWED_NAMES = ALLOWED_CALLS | frozenset(STORAGES) | frozenset(TYPES)


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


def _name_error(path: str) -> CheckpointError:
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


MAX_PICKLE_BYTES = 16 << 20  # the released checkpoint's has well under one million
MAX_INSTRUCTIONS = 400_000
_MAX_INT_KEY = 1 << 31
_PLAIN = {
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()  # where a group of items begins on the stack


def interpret(data: bytes) -> Any:
    """The pickle's value in plain types and these classes. Raises ``CheckpointError`` for other content."""
    if len(data) > MAX_PICKLE_BYTES:
        raise damage_error(f"a pickle of {len(data):,} bytes", f"at most {MAX_PICKLE_BYTES:,}")
    machine = _Machine()
    try:
        for count, (opcode, argument, position) in enumerate(genops(data)):
            if count == MAX_INSTRUCTIONS:
                raise damage_error(f"a pickle of more than {count:,} instructions", "a few hundred thousand")
            if not machine.run(opcode.name, argument):
                found = f"pickle instruction {opcode.name} at {position}"
                raise damage_error(found, "what torch.save writes")
    except (ValueError, OverflowError) as error:  # genops: cut off, or no instruction
        raise _pickle_error("it breaks off, or holds an unknown instruction") from error
    value = machine.pop()
    if machine.stack:
        raise _pickle_error("values are left over")
    return value


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _pickle_error("a value is missing")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def group(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise _pickle_error("a group has no beginning")

    def run(self, name: str, argument: Any) -> bool:
        """Run one instruction; False for one that torch does not write."""
        push = self.stack.append
        match name:
            case _ if name in _PLAIN:
                push(argument)
            case _ if name in _CONSTANTS:
                push(_CONSTANTS[name])
            case "FRAME" | "STOP":
                pass
            case "PROTO":
                if argument > 5:
                    raise damage_error(f"pickle protocol {argument}", "a protocol up to 5")
            case "MARK":
                push(_MARK)
            case "EMPTY_LIST" | "EMPTY_DICT":
                push([] if name == "EMPTY_LIST" else {})
            case "EMPTY_SET":
                push(Inert("builtins set"))
            case "FROZENSET":
                self.group()
                push(Inert("builtins frozenset"))
            case "TUPLE":
                push(tuple(self.group()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "APPEND":
                self._extend([self.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self.group())
            case "SETITEM":
                self._update([self.pop(), self.pop()][::-1])
            case "SETITEMS":
                self._update(self.group())
            case "BINPUT" | "LONG_BINPUT":
                if argument > len(self._memo) + 1:
                    found = f"memo entry {argument:,} after {len(self._memo):,}"
                    raise damage_error(found, "entries one after the other")
                self._memo[argument] = self.top()
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise _pickle_error(f"memo entry {argument} is missing")
                push(self._memo[argument])
            case "GLOBAL":
                self._name(argument)
            case "STACK_GLOBAL":
                word, module = self.pop(), self.pop()
                if not isinstance(word, str) or not isinstance(module, str):
                    raise _pickle_error("a name that is no text")
                self._name(f"{module} {word}")
            case "BINPERSID":
                fields = self.pop()
                if not isinstance(fields, tuple):
                    raise _pickle_error("a storage reference that is none")
                push(Storage(cast("tuple[Any, ...]", fields)))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.pop(), self.pop()
                allowed = ALLOWED_CALLS if name == "REDUCE" else INERT
                known = isinstance(function, Name) and function.path in allowed
                if not known or not isinstance(arguments, tuple):
                    raise _pickle_error("a call of what is not to be called")
                if function.path in INERT:
                    push(Inert(function.path))
                elif function.path == ORDERED:
                    push({})
                else:
                    push(Rebuilt(function.path, cast("tuple[Any, ...]", arguments)))
            case "BUILD":
                self.pop()
                if not isinstance(self.top(), Inert | dict):
                    raise _pickle_error("attributes for what has none")
            case _:
                return False
        return True

    def _extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            cast("list[Any]", target).extend(items)
        elif not isinstance(target, Inert):
            raise _pickle_error("items go to what is no list")

    def _update(self, pairs: list[Any]) -> None:
        target = self.top()
        if len(pairs) % 2:
            raise _pickle_error("a key has no value")
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict):
            raise _pickle_error("entries go to what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            small = isinstance(key, int) and abs(key) < _MAX_INT_KEY
            if not (small or isinstance(key, str | bytes | None)):
                shown = f"a dictionary with a {type(key).__name__} as a key"
                raise damage_error(shown, "text or small numbers")
            cast("dict[Any, Any]", target)[key] = value

    def _name(self, path: str) -> None:
        if path not in ALLOWED_NAMES:
            raise _name_error(path[:400])
        self.stack.append(Name(path))


def _pickle_error(what: str) -> CheckpointError:
    return damage_error(f"a pickle that no program wrote: {what}", "what torch.save writes")
