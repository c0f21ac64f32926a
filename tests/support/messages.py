"""Messages to the user, expected or collected in a test; any other message fails it (``conftest``)."""

import re
from collections.abc import Generator
from contextlib import contextmanager

from hallo3.messages import redirect_messages


@contextmanager
def collect_messages() -> Generator[list[str]]:
    """The messages of the block, in order."""
    messages: list[str] = []
    with redirect_messages(messages.append):
        yield messages


@contextmanager
def expect_message(pattern: str) -> Generator[list[str]]:
    """Messages of the block, of which at least one matches."""
    with collect_messages() as messages:
        yield messages
    assert any(re.search(pattern, message) for message in messages), messages
