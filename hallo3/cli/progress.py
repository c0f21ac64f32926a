"""Progress bars, and the cache of verified files that outlives a command."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoints.verify import FileVerifier
from ..progress import ProgressCallback


@contextmanager
def show_bytes(what: str, total: int) -> Generator[ProgressCallback]:
    """A bar of bytes with the time left, removed when it is full."""
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=False) as bar:
        yield _advance(bar)


@contextmanager
def show_percent(what: str, total: int) -> Generator[ProgressCallback]:
    """A bar of per cent with the time left, removed when it is full."""
    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, desc=what, leave=False, bar_format=layout) as bar:
        yield _advance(bar)


def _advance(bar: Any) -> ProgressCallback:
    def advance(amount: int) -> None:
        bar.update(amount)

    return advance


def home() -> Path:
    """The user's home. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def file_verifier() -> FileVerifier:
    """Remembers verified files in the user's home, if there is one; shows a bar for each file it reads."""
    try:
        return FileVerifier(home() / ".cache" / "hallo3" / "examined.json", show_bytes)
    except RuntimeError:
        return FileVerifier(watching=show_bytes)
