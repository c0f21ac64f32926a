"""Progress of long work: the worker reports amounts; the caller shows them, and may raise to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")

ProgressCallback = Callable[[int], object]
"""Called with the amount done since the last call (bytes, rows, files); may raise to stop."""
FollowShare = Callable[[float], object]
"""Called with the share of a video that is rendered, 0 to 1; may raise to stop."""
OpenProgress = Callable[[str, int], AbstractContextManager[ProgressCallback]]
"""(what is done, total amount) -> a progress display for the duration of a ``with`` block."""


def no_progress(*_: object) -> None:
    """A progress callback that shows nothing."""


def no_display(*_: object) -> AbstractContextManager[ProgressCallback]:
    """An ``OpenProgress`` that shows nothing."""
    return nullcontext(no_progress)


def watch_items(items: Iterable[T], progress: ProgressCallback, amount: int) -> Iterator[T]:
    """Report ``amount`` for every item."""
    for item in items:
        progress(amount)
        yield item
