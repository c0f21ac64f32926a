"""Progress bars for bytes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from tqdm import tqdm

from ..weights.examine import Watch


@contextmanager
def bytes_bar(what: str, total: int) -> Generator[Watch]:
    """A bar with what is left and how long it will take; it goes away when it is done."""
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, leave=False) as bar:

        def watch(count: int) -> None:
            bar.update(count)

        yield watch
