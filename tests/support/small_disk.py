"""Small disks of one's own, where the system lets one mount them: filled up, enlarged, made read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = 4096
LARGE = 64 << 20


@dataclass(frozen=True)
class Disk:
    """A disk whose files are below ``folder``."""

    folder: Path

    def fill(self, but: int = 0) -> None:
        """Leave no more room than ``but`` bytes."""
        words = ["stat", "-f", "-c", "%b %f", str(self.folder)]
        blocks, free = map(int, subprocess.run(words, check=True, capture_output=True).stdout.split())
        self.enlarge(max(PAGE, (blocks - free) * PAGE + but))

    def enlarge(self, size: int = LARGE) -> None:
        """Have it hold so many bytes in all."""
        _run("mount", "-o", f"remount,size={size}", str(self.folder))


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """An empty disk at ``folder``, which is made. The test is skipped where nothing may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a disk: {error}")
    try:
        yield Disk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write in the folder, though files in it may be open already."""
    _run("mount", "--bind", str(folder), str(folder))
    try:
        _run("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
