"""A large file written so that a stop costs little and never leaves half a file under its name.

It grows under another name; a journal beside it says how much is safe, and the next run of the same recipe
goes on from there. It gets its own name when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast
from zlib import crc32

from ..errors import OutputError
from ..storage.system import SYSTEM
from ..storage.whole import FULL, UNFINISHED, write_whole
from .convert import Recipe
from .examine import Watch, unwatched

SAFE_EVERY = 256 << 20
"""Bytes after which what was written is made safe."""


def write_recipe(recipe: Recipe, path: Path, watch: Watch = unwatched) -> None:
    """The file at ``path``, going on where an earlier call of the same recipe was stopped.

    Raises ``OutputError`` if it cannot be written; what was written stays for the next call.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    notes = path.with_name(path.name + UNFINISHED + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        with os.fdopen(descriptor, "r+b") as file, _alone(file, unfinished):
            start, crc = _safe(notes, recipe, file)
            _check_room(path.parent, recipe.size - start)
            watch(start)
            _write(recipe, file, start, crc, notes, watch)
        SYSTEM.replace(unfinished, path)
        notes.unlink(missing_ok=True)
        SYSTEM.sync_folder(path.parent)
    except OSError as error:
        full = error.errno in FULL
        room = f"{recipe.size:,} bytes of room in a folder that you may write to"
        raise OutputError(
            "The converted weights cannot be written.",
            found=f"{error.filename or path}: {error.strerror or error}",
            expected=room if full else "a folder that you may write to",
            do="free some space and run the same command again: it goes on where it stopped"
            if full
            else "choose another folder, or remove what is in the way",
        ) from error


def _write(recipe: Recipe, file: IO[bytes], start: int, crc: int, notes: Path, watch: Watch) -> None:
    file.seek(start)
    file.truncate()
    unsafe, position = 0, start
    for block in recipe.blocks(start):
        file.write(block)
        watch(len(block))
        crc = crc32(block, crc)
        position += len(block)
        unsafe += len(block)
        if unsafe >= SAFE_EVERY and position in recipe.borders:
            _make_safe(file)
            _note(notes, recipe, position, crc)
            unsafe = 0
    _make_safe(file)


def _safe(notes: Path, recipe: Recipe, file: IO[bytes]) -> tuple[int, int]:
    """How many bytes of this very recipe are in the unfinished file, by its journal and by their own
    checksum, which is the second value."""
    try:
        said: Any = json.loads(notes.read_text(encoding="utf-8"))
        written, crc = cast(int, said["written"]), cast(int, said["crc"])
        known = said["recipe"] == _name(recipe) and written in recipe.borders
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0, 0
    if not known or file.seek(0, os.SEEK_END) < written:
        return 0, 0
    file.seek(0)
    found, left = 0, written
    while left and (block := file.read(min(left, SAFE_EVERY, 16 << 20))):
        found = crc32(block, found)
        left -= len(block)
    return (written, crc) if found == crc and not left else (0, 0)


def _note(notes: Path, recipe: Recipe, written: int, crc: int) -> None:
    note = {"recipe": _name(recipe), "written": written, "crc": crc}
    write_whole(notes, [json.dumps(note).encode()])


def _name(recipe: Recipe) -> str:
    """By which a recipe is known again: its header says all that decides the file."""
    return sha256(recipe.header).hexdigest()


def _make_safe(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            "There is not enough room for the converted weights.",
            found=f"{free:,} bytes free in {folder}",
            expected=f"{needed:,} more bytes",
            do="free some space, or choose a folder on another disk",
        )


@contextmanager
def _alone(file: IO[bytes], path: Path) -> Generator[None]:
    """Hold the file against a second run; the hold ends with the process, however it ends."""
    free = SYSTEM.hold(file.fileno())
    if not free or not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
        raise OutputError(
            "The file is being written by another run.",
            found=f"{path}" if free else f"{path}, held by another process",
            expected="one conversion at a time",
            do="let the other one finish, or stop it first",
        )
    yield
