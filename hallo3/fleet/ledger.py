"""Which rows are done, in a file that only saves time: the truth is in the jobs' folders, and rows that it
does not know are looked up there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..storage.files import open_regular, write_atomic

LEDGER_FILENAME, MAX_BYTES = "batch.jsonl", 256 << 20


class Ledger:
    """Rows by key, each with what was ``seen`` of its files when it was done. Runs may share the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, dict[str, Any]()
        lines = list[bytes]()
        with suppress(OSError), open_regular(path, follow_links=False) as file:
            lines = file.read(MAX_BYTES).splitlines()
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                entry = json.loads(line)
                self._seen[str(entry["key"])] = entry["seen"]
        if len(lines) > 2 * len(self._seen) + 100:
            with suppress(OSError):
                write_atomic(path, [_line(key, seen) for key, seen in self._seen.items()])

    def knows(self, key: str, seen: list[Any]) -> bool:
        """Whether the row is done, and none of its files has changed since."""
        return self._seen.get(key) == seen

    def note(self, key: str, seen: list[Any]) -> None:
        """A folder that cannot be written to is no error."""
        self._seen[key] = seen
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self._path, flags, 0o644)
            try:
                os.write(descriptor, _line(key, seen))
            finally:
                os.close(descriptor)


def _line(key: str, seen: list[Any]) -> bytes:
    return b"\n" + json.dumps({"key": key, "seen": seen}).encode()
