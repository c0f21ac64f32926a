"""The tensors of a file written by ``torch.save``: its archive, its pickle, where each tensor's bytes are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import CheckpointError
from .safe_unpickler import (
    LARGEST,
    PARAMETER,
    STORAGES,
    TENSOR,
    TYPED_TENSOR,
    TYPES,
    Inert,
    Name,
    Rebuilt,
    Storage,
    interpret,
)
from .tensor_entry import TensorEntry, check_shape, damaged, strided

MOST_MEMBERS = 50_000
LARGEST_DIRECTORY = 16 << 20
_END, _END64, _LOCATOR, _CENTRAL, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE, _CENTRAL_SIZE, _LOCAL_SIZE = 22, 20, 56, 46, 30
_ENCRYPTED = 1
_FULL32 = 0xFFFFFFFF

Read = Callable[[int, int], bytes]
"""(offset, size) -> exactly so many bytes of the file."""


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: its bytes are ``size`` from ``offset``; ``crc`` is 0 where none was written."""

    name: str
    offset: int
    size: int
    crc: int


def read_directory(read: Read, size: int) -> dict[str, Member]:
    """Every member of the archive under its name.

    Raises ``CheckpointError`` for an archive that is cut, compressed, encrypted, ambiguous or absurd.
    """
    start, length, count = _find_directory(read, size)
    found: dict[str, Member] = {}
    directory = read(start, length)
    position = 0
    for _ in range(count):
        name, header, member_size, crc, position = _central(directory, position)
        if name in found:
            raise damaged(f"two members named {name[:80]!r}", "each name once")
        found[name] = Member(name, header, member_size, crc)
    if position != length:
        raise damaged("a directory longer than its members", "nothing between or behind them")
    return _place_member(read, found, start)


def _find_directory(read: Read, size: int) -> tuple[int, int, int]:
    """Offset, length and number of members."""
    tail = read(size - _END_SIZE, _END_SIZE) if size >= _END_SIZE else b""
    if not tail.startswith(_END) or tail[20:22] != b"\0\0":
        raise CheckpointError(
            "The file is incomplete.",
            found=f"{size:,} bytes that begin as a zip archive and do not end as one",
            expected="the archive's directory at the end",
            fix="download it again; it was cut, or is still being written",
        )
    _, disk, start_disk, here, count, length, start, _ = struct.unpack("<4s4H2IH", tail)
    end = size - _END_SIZE
    if size >= _END_SIZE + _LOCATOR_SIZE:
        locator = read(end - _LOCATOR_SIZE, _LOCATOR_SIZE)
        if locator.startswith(_LOCATOR):
            _, disk64, end64, disks = struct.unpack("<4sIQI", locator)
            if disk64 or disks > 1 or end64 + _END64_SIZE != end - _LOCATOR_SIZE:
                raise damaged("a zip64 record in another place", "one archive in one file")
            record = read(end64, _END64_SIZE)
            if not record.startswith(_END64):
                raise damaged("no zip64 record where one was announced", "a whole archive")
            narrow = count, length, start
            disk, start_disk, here, count, length, start = struct.unpack("<16x2I4Q", record)
            for one, wide, unsaid in zip(
                narrow, (count, length, start), (0xFFFF, _FULL32, _FULL32), strict=True
            ):
                if one not in (wide, unsaid):
                    raise damaged(f"two directories, {one:,} and {wide:,}", "one")
            end = end64
    if disk or start_disk or here != count:
        raise damaged("an archive of several volumes", "one archive in one file")
    if count > MOST_MEMBERS or length > LARGEST_DIRECTORY:
        raise damaged(
            f"a directory of {count:,} members, {length:,} bytes", f"at most {MOST_MEMBERS:,} members"
        )
    if start + length != end:
        raise damaged(
            f"a directory at {start:,} of {length:,} bytes that ends elsewhere", f"an end at {end:,}"
        )
    return start, length, count


def _central(directory: bytes, position: int) -> tuple[str, int, int, int, int]:
    """Name, local header's offset, size and checksum of the member at ``position``; then the next one."""
    fixed = directory[position : position + _CENTRAL_SIZE]
    if len(fixed) < _CENTRAL_SIZE or not fixed.startswith(_CENTRAL):
        raise damaged("a directory that breaks off", "an entry for every member")
    flags, method, crc, packed, size, name_length, extra_length, comment_length, header = struct.unpack(
        "<8x2H4x3I3H8xI", fixed
    )
    names = position + _CENTRAL_SIZE
    extras = names + name_length
    behind = extras + extra_length + comment_length
    if behind > len(directory):
        raise damaged("a directory that breaks off", "an entry for every member")
    name = _name(directory[names:extras])
    if flags & _ENCRYPTED:
        raise damaged(f"{name[:80]!r} is encrypted", "members stored as they are")
    if method:
        raise damaged(f"{name[:80]!r} is compressed", "members stored as they are, as torch.save does")
    wide = _wide_fields(directory[extras : extras + extra_length])
    if size == _FULL32:
        size, wide = _next(wide, name)
    if packed == _FULL32:
        packed, wide = _next(wide, name)
    if header == _FULL32:
        header, wide = _next(wide, name)
    if packed != size:
        raise damaged(f"{name!r} has two sizes, {packed:,} and {size:,}", "members stored as they are")
    return name, header, size, crc, behind


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(f"a member named {raw[:40]!r}", "names in UTF-8") from error
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in parts:
        raise damaged(f"a member named {name[:80]!r}", "names that lead nowhere outside the archive")
    return name


def _wide_fields(extra: bytes) -> tuple[int, ...]:
    """The zip64 extra field's numbers, if there is one."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            return struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8])
        position += 4 + length
    return ()


def _next(wide: tuple[int, ...], name: str) -> tuple[int, tuple[int, ...]]:
    if not wide:
        raise damaged(f"{name!r} has no size", "sizes for every member")
    return wide[0], wide[1:]


def _place_member(read: Read, members: dict[str, Member], end: int) -> dict[str, Member]:
    """Members with the place of their bytes instead of their header's; none may overlap or leave the file."""
    placed: dict[str, Member] = {}
    free = 0
    for member in sorted(members.values(), key=lambda m: m.offset):
        if member.offset < free or member.offset + _LOCAL_SIZE > end:
            raise damaged(f"{member.name!r} overlaps another member", "members one after the other")
        fixed = read(member.offset, _LOCAL_SIZE)
        if not fixed.startswith(_LOCAL):
            raise damaged(
                f"no member at {member.offset:,}, where {member.name!r} should be", "a whole archive"
            )
        name_length, extra_length = struct.unpack("<26x2H", fixed)
        start = member.offset + _LOCAL_SIZE + name_length + extra_length
        free = start + member.size
        if free > end:
            raise damaged(
                f"{member.name!r} of {member.size:,} bytes leaves the file", "members inside the file"
            )
        if read(member.offset + _LOCAL_SIZE, name_length) != member.name.encode():
            raise damaged(f"{member.name!r} has two names", "one")
        placed[member.name] = Member(member.name, start, member.size, member.crc)
    return placed


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

    entries: dict[str, TensorEntry]
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
    entries: dict[str, TensorEntry] = {}
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


def _not_torch(found: str, fix: str) -> CheckpointError:
    return CheckpointError(
        "The archive is not a file of weights.",
        found=found,
        expected="an archive written by torch.save",
        fix=fix,
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
        fix="save the network's state_dict()",
    )


def _place_tensor(name: str, item: Rebuilt, members: dict[str, Member], root: str) -> TensorEntry:
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
    entry = TensorEntry(dtype, shape, member.offset + begin)
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
