"""The tensors of a file written by ``torch.save``: its archive, its pickle, where each tensor's bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import CheckpointError
from .archive import Member, Read, read_directory
from .layout import Entry, check_shape, damaged, strided
from .names import PARAMETER, STORAGES, TENSOR, TYPED_TENSOR, TYPES, Inert, Name, Rebuilt, Storage
from .pickled import LARGEST, interpret

STATES = ("module", "state_dict", "model_state_dict")
"""Entries of a checkpoint that hold its network, the first found counts: DeepSpeed's, Lightning's, common."""

_OTHER_ARCHIVES = (
    ("constants.pkl", "a TorchScript program"),
    ("serialized_exported_program.json", "a program of torch.export"),
    ("models/model.json", "a program of torch.export"),
    ("word/document.xml", "a Word document"),
)


@dataclass(frozen=True, slots=True)
class TorchContents:
    """``entries`` by name; ``beside``: what else the checkpoint holds; the archive's ``members``."""

    entries: dict[str, Entry]
    beside: dict[str, str]
    members: dict[str, Member]


def read_torch(read: Read, size: int) -> TorchContents:
    """What a torch archive of ``size`` bytes holds. Raises ``CheckpointError``."""
    members = read_directory(read, size)
    root = _root(members)
    _check_byte_order(read, members, root)
    pickle = members[f"{root}/data.pkl"]
    if pickle.size > LARGEST:
        raise damaged(f"a pickle of {pickle.size:,} bytes", f"at most {LARGEST:,}")
    value = interpret(read(pickle.offset, pickle.size))
    name, state = _state_of(value)
    entries: dict[str, Entry] = {}
    for key, item in state.items():
        if isinstance(item, Rebuilt):
            if not isinstance(key, str):
                raise damaged(f"a tensor named by a {type(key).__name__}", "text as its name")
            entries[key] = _place_tensor(key, item, members, root)
    other = value if name else {key: item for key, item in state.items() if not isinstance(item, Rebuilt)}
    beside = {str(key): _in_words(item) for key, item in other.items() if key != name}
    return TorchContents(entries, beside, members)


def _root(members: dict[str, Member]) -> str:
    """The folder inside the archive in which everything is."""
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    roots = {name.partition("/")[0] for name in members}
    for root in roots:
        for ending, what in _OTHER_ARCHIVES:
            if f"{root}/{ending}" in members or ending in members:
                raise _not_torch(what, "save its state_dict() with torch.save, or as safetensors")
    if len(pickles) != 1 or len(roots) != 1:
        shown = next(iter(sorted(members)), "nothing")
        raise _not_torch(
            f"a zip archive that holds {shown[:80]!r}", "unpack it and choose the weights inside"
        )
    return roots.pop()


def _not_torch(found: str, do: str) -> CheckpointError:
    return CheckpointError(
        "The archive is not a file of weights.",
        found=found,
        expected="an archive written by torch.save",
        do=do,
    )


def _check_byte_order(read: Read, members: dict[str, Member], root: str) -> None:
    order = members.get(f"{root}/byteorder")
    if order is not None and (order.size != 6 or read(order.offset, 6) != b"little"):
        raise damaged("numbers in another byte order", "little-endian numbers")


def _state_of(value: Any) -> tuple[str, dict[Any, Any]]:
    """The network's dictionary, and the name of the entry that held it, if any."""
    if isinstance(value, dict):
        whole = cast("dict[Any, Any]", value)
        for name in STATES:
            if isinstance(inner := whole.get(name), dict):
                return name, cast("dict[Any, Any]", inner)
        if any(isinstance(item, Rebuilt) for item in whole.values()):
            return "", whole
    raise CheckpointError(
        "The file holds no tensors by name.",
        found=_in_words(value),
        expected="a dictionary of tensors, or one under " + ", ".join(repr(name) for name in STATES),
        do="save the network's state_dict()",
    )


def _place_tensor(name: str, item: Rebuilt, members: dict[str, Member], root: str) -> Entry:
    """A tensor's place, checked against its storage."""
    shown = repr(name[:80])
    if item.path == PARAMETER:
        inner = item.arguments[0] if item.arguments else None
        if not isinstance(inner, Rebuilt):
            raise damaged(f"{shown}, a parameter without a tensor", "a tensor inside")
        item = inner
    given: list[Any] = list(item.arguments)
    known = item.path in (TENSOR, TYPED_TENSOR) and 6 <= len(given) <= 8
    if not known or not isinstance(given[0], Storage):
        raise damaged(f"{shown}, described by {len(given)} values", "a storage, offset, shape and strides")
    stored, member = _storage(shown, given[0], members, root)
    dtype = stored
    if item.path == TYPED_TENSOR:
        dtype = TYPES.get(given[6].path) if len(given) > 6 and isinstance(given[6], Name) else None
        if dtype is None:
            raise damaged(f"{shown} of no known type", "a type that is read")
    offset, shape, stride = given[1], _numbers(given[2]), _numbers(given[3])
    if type(offset) is not int or offset < 0 or shape is None or stride is None:
        raise damaged(f"{shown} with an offset, shape or strides that are no numbers", "whole numbers from 0")
    check_shape(shape, shown)
    begin = offset * dtype.itemsize
    entry = Entry(dtype, shape, member.offset + begin)
    return strided(entry, stride, member.size - begin, shown)


def _storage(
    shown: str, storage: Storage, members: dict[str, Member], root: str
) -> tuple[torch.dtype, Member]:
    """Type and bytes of a storage: ("storage", its class, key, device, length)."""
    if len(storage.fields) != 5:
        raise damaged(f"{shown} in a storage described by {len(storage.fields)} values", "five of torch's")
    word, named, key, device, length = storage.fields
    if word != "storage" or not isinstance(named, Name):
        raise damaged(f"{shown} in a storage of no class", "one of torch's")
    kind = named.path
    dtype = STORAGES.get(kind)
    if dtype is None or not isinstance(key, str) or not (key.isascii() and key.isdigit() and len(key) < 10):
        raise damaged(f"{shown} in the storage {_shown(key)} of {kind}", "a numbered storage")
    member = members.get(f"{root}/data/{key}")
    if member is None:
        raise damaged(f"{shown} in storage {key}, which the archive lacks", "a member for every storage")
    if not isinstance(device, str) or type(length) is not int or length * dtype.itemsize != member.size:
        raise damaged(f"storage {key} of {_shown(length)} numbers in {member.size:,} bytes", "equal sizes")
    return dtype, member


def _numbers(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, tuple) or len(cast("tuple[Any, ...]", value)) > 64:
        return None
    items = cast("tuple[Any, ...]", value)
    return items if all(type(item) is int and item >= 0 for item in items) else None


def _in_words(item: Any) -> str:
    if isinstance(item, Rebuilt):
        return "a tensor"
    if isinstance(item, Inert | Name):
        return f"an object of {item.path.replace(' ', '.')}"
    if isinstance(item, dict | list | tuple):
        return f"a {type(cast(object, item)).__name__} of {len(cast('tuple[Any, ...]', item))}"
    return "nothing" if item is None else f"{type(item).__name__} {_shown(item)}"


def _shown(value: Any) -> str:
    """A plain value, briefly; of others their type only, for they may be endless."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    return str(value)[:40] if type(value) in (int, float, bool) else f"a {type(value).__name__}"
