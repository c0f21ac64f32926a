"""The zip archives of ``torch.save``: members stored as they are, each once, all inside the file.

Read strictly, from the central directory alone; nothing is ever unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import CheckpointError
from .layout import damaged

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
            do="download it again; it was cut, or is still being written",
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
