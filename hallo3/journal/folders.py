"""A job's folder as a folder: where it is, how large, moved, taken away."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from ..storage.hold import held
from ..storage.whole import unwritable


def folder_of(jobs: Path, key: str) -> Path:
    """Where the job of a key is kept."""
    return jobs / key[:16]


def size_of(folder: Path) -> int:
    """Bytes that a folder holds; what goes while it is looked at is not counted."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def moved(folder: Path, place: Path) -> None:
    """Give a job's folder another name. Raises ``OutputError`` if another run holds it or it cannot be."""
    try:
        with held(folder, "this job", note=False):
            if os.name != "nt":  # nobody can take hold of it in between
                folder.rename(place)
        if os.name == "nt":  # a folder with an open file cannot be renamed there
            folder.rename(place)
    except OSError as error:
        raise unwritable("The job cannot be removed.", folder, error) from error


def remove(folder: Path) -> None:
    """Take a job away. Raises ``OutputError`` if another run holds it or it cannot be removed."""
    gone = folder.with_name(f"{folder.name}.gone")
    moved(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
