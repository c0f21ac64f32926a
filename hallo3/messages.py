"""Messages to the user go to one logger; the command and ComfyUI show them in their own way."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("hallo3")


class _Forward(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def redirect_messages(show: Callable[[str], None]) -> Generator[None]:
    """Send messages that are logged inside the block to ``show``, and nowhere else."""
    handlers, propagate, handler = logger.handlers[:], logger.propagate, _Forward(show)
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate


def python_line(*words: object) -> str:
    """A line for a terminal, with this Python, and quotes where a word needs them."""
    texts = [str(word) for word in (sys.executable, *words)]
    if sys.platform != "win32":
        return shlex.join(texts)
    line = " ".join(f'"{text}"' if set(text) & set(" &()^;,'") else text for text in texts)
    return f"& {line}  (in cmd without the first &)" if line.startswith('"') else line


def command_line(*words: object) -> str:
    """A line that runs this package's command from any folder."""
    return python_line(Path(__file__).parent, *words)
