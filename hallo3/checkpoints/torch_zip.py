"""The tensors of a file written by ``torch.save``: its archive, its pickle, where each tensor's bytes are.

``zipfile`` reads the archive's directory. The tensors are read by position, without it: every member must be
stored as it is, inside the file, and overlap no other.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from itertools import product
from typing import Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from ..errors import CheckpointError
from .safe_unpickler import (
    MAX_PICKLE_BYTES,
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
from .tensor_entry import Read, TensorEntry, check_shape, damage_error, incomplete_error, with_stride

MAX_DIRECTORY_BYTES = 4 << 20  # the released checkpoint's has 0.2 million
_LOCAL, _LOCAL_SIZE = b"PK\3\4", 30
_ENCRYPTED, _UTF8 = 1, 0x800


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: its bytes are ``size`` from ``offset``; ``crc`` is 0 where none was written."""

    name: str
    offset: int
    size: int
    crc: int


class _Positional(io.RawIOBase):
    """The file for ``zipfile``, which must not read much at once."""

    def __init__(self, read: Read, size: int) -> None:
        self._read_at, self._size, self._at = read, size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError("before the beginning")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        count = max(0, self._size - self._at)
        count = count if size < 0 else min(size, count)
        if count > MAX_DIRECTORY_BYTES:
            raise damage_error(f"a directory of {count:,} bytes", f"at most {MAX_DIRECTORY_BYTES:,}")
        data = self._read_at(self._at, count)
        self._at += count
        return data


def read_directory(read: Read, size: int) -> dict[str, Member]:
    """Members by name; ``CheckpointError`` for a cut, compressed, encrypted, ambiguous or absurd archive."""
    try:
        with ZipFile(cast(Any, _Positional(read, size))) as archive:
            infos, end, comment = archive.infolist(), archive.start_dir, archive.comment
    except BadZipFile as error:
        if "not a zip" not in str(error):
            raise damage_error("an archive whose directory contradicts itself", "a whole archive") from error
        found = f"{size:,} bytes that begin as a zip archive and do not end as one"
        raise incomplete_error(found, "the archive's directory at the end") from error
    except (OSError, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        raise damage_error("an archive whose directory cannot be read", "a whole archive") from error
    if comment:
        raise damage_error("an archive with a comment", "nothing behind the directory")
    count, start = struct.unpack("<10xH4xI2x", read(size - 22, 22))  # if all bits are set, zip64's count
    if count not in (0xFFFF, len(infos)) or start not in (0xFFFFFFFF, end):
        raise damage_error(f"two directories, of {count:,} and {len(infos):,} members", "one")
    members: dict[str, Member] = {}
    free = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name, shown, offset = info.orig_filename, repr(info.orig_filename[:80]), info.header_offset
        if name in members:
            raise damage_error(f"two members named {shown}", "each name once")
        if not name or name.startswith("/") or set(name) & set("\\:\0") or ".." in name.split("/"):
            raise damage_error(f"a member named {shown}", "names that lead nowhere outside the archive")
        stored = info.compress_type == ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits & _ENCRYPTED:
            raise damage_error(f"{shown} is compressed or encrypted", "members stored as they are")
        if offset < free or (not members and offset) or offset + _LOCAL_SIZE > end:
            raise damage_error(f"{shown} at {offset:,} overlaps, or has bytes before it", "members in order")
        fixed = read(offset, _LOCAL_SIZE)
        name_length, extra_length = struct.unpack("<26x2H", fixed)
        start = offset + _LOCAL_SIZE + name_length + extra_length
        free = start + info.file_size
        if free > end:
            place = f"{shown} of {info.file_size:,} bytes leaves the file"
            raise damage_error(place, "members inside the file")
        encoded = name.encode("utf-8" if info.flag_bits & _UTF8 else "cp437", "replace")
        if not fixed.startswith(_LOCAL) or read(offset + _LOCAL_SIZE, name_length) != encoded:
            place = f"{shown} has another name, or none, at {offset:,}"
            raise damage_error(place, "the name of the directory")
        members[name] = Member(name, start, info.file_size, info.CRC)
    return members


STATES = ("module", "state_dict", "model_state_dict")  # of the network: DeepSpeed's, Lightning's, common

_OTHER_ARCHIVES = (
    ("constants.pkl", "a TorchScript program"),
    ("serialized_exported_program.json", "a program of torch.export"),
    ("models/model.json", "a program of torch.export"),
    ("word/document.xml", "a Word document"),
)


def read_torch(read: Read, size: int) -> tuple[dict[str, TensorEntry], dict[str, str], dict[str, Member]]:
    """The tensors, what else the archive holds in words, and its members. Raises ``CheckpointError``."""
    members = read_directory(read, size)
    roots = {name.partition("/")[0] for name in members}  # torch puts everything into one folder
    for (ending, what), root in product(_OTHER_ARCHIVES, roots):
        if f"{root}/{ending}" in members or ending in members:
            raise _archive_error(what, "save its state_dict() with torch.save, or as safetensors")
    root = next(iter(roots), "")
    if len(roots) != 1 or f"{root}/data.pkl" not in members:
        holds = f"a zip archive that holds {next(iter(sorted(members)), 'nothing')[:80]!r}"
        raise _archive_error(holds, "unpack it and choose the weights inside")
    order = members.get(f"{root}/byteorder")
    if order is not None and (order.size != 6 or read(order.offset, 6) != b"little"):
        raise damage_error("numbers in another byte order", "little-endian numbers")
    pickle = members[f"{root}/data.pkl"]
    if pickle.size > MAX_PICKLE_BYTES:
        raise damage_error(f"a pickle of {pickle.size:,} bytes", f"at most {MAX_PICKLE_BYTES:,}")
    value = interpret(read(pickle.offset, pickle.size))
    name, state = _find_state(value)
    entries: dict[str, TensorEntry] = {}
    for key, item in state.items():
        if isinstance(item, Rebuilt):
            if not isinstance(key, str):
                raise damage_error(f"a tensor named by a {type(key).__name__}", "text as its name")
            entries[key] = _place_tensor(key, item, members, root)
    other = value if name else {key: item for key, item in state.items() if not isinstance(item, Rebuilt)}
    beside = {str(key): _describe(item) for key, item in other.items() if key != name}
    return entries, beside, members


def _archive_error(found: str, fix: str) -> CheckpointError:
    return CheckpointError(
        "The archive is not a file of weights.",
        found=found,
        expected="an archive written by torch.save",
        fix=fix,
    )


def _find_state(value: Any) -> tuple[str, dict[Any, Any]]:
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
        found=_describe(value),
        expected="a dictionary of tensors, or one under " + ", ".join(repr(name) for name in STATES),
        fix="save the network's state_dict()",
    )


def _place_tensor(name: str, item: Rebuilt, members: dict[str, Member], root: str) -> TensorEntry:
    shown = repr(name[:80])
    if item.path == PARAMETER:
        inner = item.arguments[0] if item.arguments else None
        if not isinstance(inner, Rebuilt):
            raise damage_error(f"{shown}, a parameter without a tensor", "a tensor inside")
        item = inner
    arguments: list[Any] = list(item.arguments)
    known = item.path in (TENSOR, TYPED_TENSOR) and 6 <= len(arguments) <= 8
    if not known or not isinstance(arguments[0], Storage):
        described = f"{shown}, described by {len(arguments)} values"
        raise damage_error(described, "a storage, offset, shape and strides")
    dtype, member = _storage(shown, arguments[0], members, root)
    if item.path == TYPED_TENSOR:
        if len(arguments) < 7 or not isinstance(arguments[6], Name) or arguments[6].path not in TYPES:
            raise damage_error(f"{shown} of no known type", "a type that is read")
        dtype = TYPES[arguments[6].path]
    offset, shape, stride = arguments[1], _parse_numbers(arguments[2]), _parse_numbers(arguments[3])
    if type(offset) is not int or offset < 0 or shape is None or stride is None:
        numbers = f"{shown} with an offset, shape or strides that are no numbers"
        raise damage_error(numbers, "whole numbers from 0")
    check_shape(shape, shown)
    begin = offset * dtype.itemsize
    entry = TensorEntry(dtype, shape, member.offset + begin)
    return with_stride(entry, stride, member.size - begin, shown)


def _storage(
    shown: str, storage: Storage, members: dict[str, Member], root: str
) -> tuple[torch.dtype, Member]:
    """Type and bytes of a storage: ("storage", its class, key, device, length)."""
    if len(storage.fields) != 5:
        described = f"{shown} in a storage described by {len(storage.fields)} values"
        raise damage_error(described, "five of torch's")
    word, named, key, device, length = storage.fields
    if word != "storage" or not isinstance(named, Name):
        raise damage_error(f"{shown} in a storage of no class", "one of torch's")
    kind = named.path
    dtype = STORAGES.get(kind)
    if dtype is None or not isinstance(key, str) or not (key.isascii() and key.isdigit() and len(key) < 10):
        raise damage_error(f"{shown} in the storage {_format_value(key)} of {kind}", "a numbered storage")
    member = members.get(f"{root}/data/{key}")
    if member is None:
        raise damage_error(f"{shown} in storage {key}, which the archive lacks", "a member for every storage")
    if not isinstance(device, str) or type(length) is not int or length * dtype.itemsize != member.size:
        sizes = f"storage {key} of {_format_value(length)} numbers in {member.size:,} bytes"
        raise damage_error(sizes, "equal sizes")
    return dtype, member


def _parse_numbers(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, tuple) or len(cast("tuple[Any, ...]", value)) > 64:
        return None
    items = cast("tuple[Any, ...]", value)
    return items if all(type(item) is int and item >= 0 for item in items) else None


def _describe(item: Any) -> str:
    if isinstance(item, Rebuilt):
        return "a tensor"
    if isinstance(item, Inert | Name):
        return f"an object of {item.path.replace(' ', '.')}"
    if isinstance(item, dict | list | tuple):
        return f"a {type(cast(object, item)).__name__} of {len(cast('tuple[Any, ...]', item))}"
    return "nothing" if item is None else f"{type(item).__name__} {_format_value(item)}"


def _format_value(value: Any) -> str:
    """A plain value, briefly; of others their type only, for they may be endless."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    return str(value)[:40] if type(value) in (int, float, bool) else f"a {type(value).__name__}"
