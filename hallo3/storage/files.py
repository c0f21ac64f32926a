"""Files that are complete or absent, even after a crash or power cut, and JSON objects in them.

python-atomicwrites, which did this, is abandoned; the standard library has no call that writes, syncs and
renames.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BufferedReader
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from ..errors import OutputError

TEMPORARY_SUFFIX = ".unfinished"
NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}
"""errno values of a folder sync that mean "not supported here"; safe to ignore."""
DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
REPARSE_NAME_SURROGATE = 0x20000000
REPLACE_DELAYS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if os.name == "nt" else ()
"""Seconds between attempts to replace a file that a player or a virus scanner has open on Windows."""
WRITE_BYTES = 64 << 20
RATE_BLOCK_BYTES = 16 << 20
MAX_JSON_BYTES = 1 << 20
FOREIGN = {
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"PK": "an archive that is still packed",
}


def write_atomic(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write a file that survives a power cut once this returns.

    If this is stopped or fails at any point, the previous file is still there. Raises ``OSError``.
    """
    fresh = temporary_path(path)
    try:
        descriptor = create_file(fresh)
        try:
            for block in blocks:
                rest = memoryview(block).cast("B")
                while rest:  # the system may write less than it is given
                    rest = rest[os.write(descriptor, rest[:WRITE_BYTES]) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _replace(fresh, path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def publish_file(path: Path, blocks: Iterable[bytes | memoryview], *, new: bool = False) -> None:
    """Write a file that several machines may write at once on a shared disk: each name has one writer's
    whole file. With ``new``, raise ``FileExistsError`` if the name is taken, however close the race.

    Raises ``OSError``, also for a file system without hard links, which ``new`` needs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = temporary_path(path.with_name(f"{path.name}.{token_hex(8)}"))
    try:
        write_atomic(fresh, blocks)
        if not new:
            _replace(fresh, path)
        elif os.name == "nt":
            fresh.rename(path)  # refuses a name that is taken
        else:
            os.link(fresh, path)
    except OSError as error:
        if error.errno in NOT_SUPPORTED - {errno.EACCES}:
            raise OSError(error.errno, "this file system has no hard links", str(path)) from error
        raise
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_file(path: Path) -> int:
    """Open a new file to write, in place of a file or link of its name: the link is not followed, and other
    names of the file keep its bytes. Raises ``OSError``, also for a folder, pipe or device of its name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    with suppress(FileNotFoundError):
        status = path.lstat()
        try:
            if stat.S_ISLNK(status.st_mode) or is_plain_file(status):
                path.unlink()
        except PermissionError:  # on Windows a player may have it open
            if os.name != "nt" or not is_plain_file(status, own=True):
                raise
            flags = flags & ~os.O_EXCL | os.O_TRUNC
    return os.open(path, flags, 0o644)


def is_plain_file(status: os.stat_result, *, own: bool = False) -> bool:
    """Whether ``lstat`` saw a regular file, no link; with ``own`` one of a single name."""
    return stat.S_ISREG(status.st_mode) and not _leads_elsewhere(status) and (status.st_nlink < 2 or not own)


def is_plain_folder(status: os.stat_result) -> bool:
    """Whether ``lstat`` saw a folder, no link."""
    return stat.S_ISDIR(status.st_mode) and not _leads_elsewhere(status)


def _leads_elsewhere(status: os.stat_result) -> bool:
    """A junction or another link of Windows; a file that is in the cloud is none."""
    return bool(getattr(status, "st_reparse_tag", 0) & REPARSE_NAME_SURROGATE)


class ForeignEntryError(OSError):
    """A link, a pipe or another kind of thing where a folder or a file of ours is expected."""


def list_files(
    folder: Path, names: Mapping[str, re.Pattern[str]], outputs: re.Pattern[str]
) -> dict[Path, os.stat_result]:
    """Our files as ``lstat`` sees them: those with ``names``, by subfolder ("" for the folder itself). Of
    these, ``outputs`` may be links: they are replaced and never read.

    Raises ``ForeignEntryError`` if one of these folders or files is none, so that reading, writing or
    deleting it would reach another place; ``OSError`` if a folder cannot be read.
    """
    found = dict[Path, os.stat_result]()
    for name, pattern in names.items():
        place = folder / name
        if name and not os.path.lexists(place):
            continue
        if not is_plain_folder(place.lstat()):
            raise ForeignEntryError(errno.ENOTDIR, "a link or a file, not a folder", str(place))
        for path in [Path(entry) for entry in os.scandir(place) if pattern.fullmatch(entry.name)]:
            with suppress(FileNotFoundError):
                found[path] = path.lstat()
                is_link = stat.S_ISLNK(found[path].st_mode)
                if not is_plain_file(found[path]) and not (is_link and outputs.fullmatch(path.name)):
                    raise ForeignEntryError(errno.EEXIST, "a link or another kind of file", str(path))
    return found


def free_name(path: Path, suffix: str) -> Path:
    """The first name beside ``path`` with this suffix and a number that is not taken."""
    names = (path.with_name(f"{path.name}{suffix}{number}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def finalize_file(fresh: Path, path: Path) -> None:
    """Sync a file that another library wrote, and rename it to ``path``. Raises ``OSError``."""
    descriptor = os.open(fresh, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _replace(fresh, path)
    sync_folder(path.parent)


def _replace(fresh: Path, path: Path) -> None:
    """Atomic, also over an open file."""
    for delay in REPLACE_DELAYS:
        try:
            fresh.replace(path)
        except PermissionError:
            time.sleep(delay)
        else:
            return
    fresh.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows does this automatically, and cannot open a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:  # some network file systems
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def write_error(headline: str, path: Path, error: OSError, needed: int = 0) -> OutputError:
    """An ``OutputError`` with the file, the system's reason and, on a full disk, which it is and its free
    space."""
    place, reason = error.filename or path, error.strerror or str(error)
    if error.errno in DISK_FULL:
        folders, free = path.absolute().parents, "an unknown number of"
        with suppress(OSError):
            free = f"{free_disk(path.parent):,}"
        disk = next((folder for folder in folders if folder.is_mount()), folders[-1])
        return OutputError(
            headline,
            found=f"{place}: {reason}, {free} bytes free on the disk {disk}",
            expected=f"{needed:,} bytes of free space" if needed else "a disk with free space",
            fix="free some space and run the same again: it resumes where it stopped",
            may_pass=True,
        )
    return OutputError(
        headline,
        found=f"{place}: {reason}",
        expected="a folder that exists and that you may write to",
        fix="repair the folder, remove what is in the way, or choose another folder; then run the same again",
    )


def free_disk(folder: Path) -> int:
    """Free bytes where a folder is, or would be made."""
    places = folder.absolute(), *folder.absolute().parents
    return shutil.disk_usage(next(place for place in places if place.exists())).free


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, which stays if the first is deleted; on another disk a copy, complete or
    absent. Raises ``OSError``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = temporary_path(target)
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:
        shutil.copyfile(source, fresh)
    _replace(fresh, target)
    fresh.unlink(missing_ok=True)  # POSIX leaves it if both were names of one file


def describe_foreign(content: bytes) -> str:
    """What often arrives in place of a file that is no text, no archive; "" for anything else."""
    start = content[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((what for magic, what in FOREIGN.items() if start.startswith(magic)), "")


def open_regular(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """Open a file for reading without waiting for a writer.

    Raises ``OSError`` if the file cannot be opened, or is a pipe, a device or a folder; also a symbolic link
    unless ``follow_links``. What is opened is what was checked.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
        if path.is_symlink():  # Windows has no such flag
            raise OSError(errno.ELOOP, "a symbolic link, not a file", str(path))
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def measure_read_rate(path: Path) -> float:
    """Bytes per second at which a disk gives a file, read in eight places; where the system allows it, past
    its cache. Raises ``OSError``."""
    size, count = path.stat().st_size, 0
    block = min(RATE_BLOCK_BYTES, size)
    started = time.monotonic()
    with path.open("rb", buffering=0) as file:
        for number in range(8):
            place = number * (size - block) // 7
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), place, block, os.POSIX_FADV_DONTNEED)
            file.seek(place)
            count += len(file.read(block))
    return count / max(1e-6, time.monotonic() - started)


def parse_json_object(text: str | bytes, *, strict: bool = False) -> dict[str, Any]:
    """Raises ``ValueError`` for anything but a JSON object, deep nesting included; if ``strict`` also for a
    name that comes twice, NaN and infinity, which JSON does not have."""
    try:
        value: object = json.loads(text, **_STRICT if strict else {})
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) != len(pairs):
        raise ValueError("a name that comes twice")
    return fields


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:20]}, which is no finite number")
    return value


_STRICT: dict[str, Any] = {
    "object_pairs_hook": _unique,
    "parse_constant": _finite,
    "parse_float": _finite,
}


def read_json_object(
    path: Path, max_bytes: int = MAX_JSON_BYTES, *, follow_links: bool = True
) -> dict[str, Any]:
    """Raises ``OSError`` for a file that cannot be read, ``ValueError`` for one that is too large or holds
    something else."""
    with open_regular(path, follow_links=follow_links) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes:,} bytes")
    return parse_json_object(data)


def read_json_or_empty(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a file of ours, which is no link; empty where there is none that can be used."""
    try:
        return read_json_object(path, max_bytes, follow_links=False)
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write atomically. Raises ``OSError``, also for values that cannot be written."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError) as error:  # read where there was more room for them
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    write_atomic(path, [text.encode()])


def home() -> Path:
    """The user's home. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def cache_path(name: str) -> Path | None:
    """A file that is remembered between runs: in the user's home, if there is one."""
    with suppress(RuntimeError):
        return home() / ".cache" / "hallo3" / name
    return None
