"""What the commands remember of one another: which weights files have been looked through."""

from __future__ import annotations

from pathlib import Path

from ..weights.examine import Examined
from .bars import bytes_bar


def home() -> Path:
    """The user's. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def remembered() -> Examined:
    """Kept in the user's home, if there is one; a file is looked through with a bar."""
    try:
        return Examined(home() / ".cache" / "hallo3" / "examined.json", bytes_bar)
    except RuntimeError:  # no home to keep it in
        return Examined(watching=bytes_bar)
