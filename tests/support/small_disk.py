"""Mounted tmpfs disks, if the system allows it: full, enlarged, read-only."""

import subprocess
from collections.abc import Generator
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
        """Leave ``but`` bytes free."""
        words = ["stat", "-f", "-c", "%b %f", str(self.folder)]
        blocks, free = map(int, subprocess.run(words, check=True, capture_output=True).stdout.split())
        self.enlarge(max(PAGE, (blocks - free) * PAGE + but))

    def enlarge(self, size: int = LARGE) -> None:
        """Set the disk's total size in bytes."""
        _run("mount", "-o", f"remount,size={size}", str(self.folder))


@contextmanager
def small_disk(folder: Path) -> Generator[Disk]:
    """Mount an empty disk at a new ``folder``; skips the test if mounting is not allowed."""
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
def read_only(folder: Path) -> Generator[None]:
    """Make the folder read-only; files in it may already be open."""
    _run("mount", "--bind", str(folder), str(folder))
    try:
        _run("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
