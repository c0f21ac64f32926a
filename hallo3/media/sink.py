"""A file that FFmpeg writes to, and what is wrong with it said once.

FFmpeg writes on after an error, and PyAV prints what comes of that to the terminal. Here the first error is
kept for whoever asks, and nothing is written after it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


class Sink(io.BufferedWriter):
    """The file at ``path``, emptied, for FFmpeg to write. Raises ``OSError`` if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._failure: OSError | None = None

    def write(self, block: Any, /) -> int:
        """All of it, or nothing after a failure; FFmpeg is not told."""
        if self._failure is None:
            try:
                return super().write(block)
            except OSError as error:
                self._failure = error
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """To where FFmpeg goes on; what is held back is written first."""
        if self._failure is None:
            try:
                return super().seek(offset, whence)
            except OSError as error:
                self._failure = error
        return max(offset, 0)

    def check(self) -> None:
        """Write what is held back. Raises the ``OSError`` that this or anything before met."""
        if self._failure is not None:
            raise self._failure
        self.flush()
