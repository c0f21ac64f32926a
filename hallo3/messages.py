"""Messages to the user go to one logger; the command and ComfyUI show them in their own way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

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
