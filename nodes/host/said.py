"""What a user should know, where users look: under the node that runs, and in the log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from comfy_execution.utils import get_executing_context
from server import PromptServer


def show(text: str) -> None:
    """Text under the node that runs; nothing where no node runs."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(text, context.node_id)


def warn(text: str) -> None:
    """Text under the node that runs, and in the log."""
    logging.warning("Hallo3: %s", text)
    show(text)


@contextmanager
def warnings_shown() -> Generator[None]:
    """The package's warnings inside, not only the first time, as text under the node and in the log.

    Warnings of other kinds go on as they are.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in caught if each.category is UserWarning]
    for each in caught:
        if each.category is not UserWarning:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    for text in said:
        logging.warning("Hallo3: %s", text)
    if said:
        show("\n\n".join(said))
