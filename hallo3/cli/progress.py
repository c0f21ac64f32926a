"""What the commands remember of one another: which weights files have been looked through."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..checkpoints.verify import FileVerifier, Watch


@contextmanager
def bytes_bar(what: str, total: int) -> Generator[Watch]:
    """A bar with what is left and how long it will take; it goes away when it is done."""
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=False) as bar:

        def watch(count: int) -> None:
            bar.update(count)

        yield watch


def home() -> Path:
    """The user's. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def remembered() -> FileVerifier:
    """Kept in the user's home, if there is one; a file is looked through with a bar."""
    try:
        return FileVerifier(home() / ".cache" / "hallo3" / "examined.json", bytes_bar)
    except RuntimeError:  # no home to keep it in
        return FileVerifier(watching=bytes_bar)
