"""The documented commands for the released weights, as a user types them."""

import re
import shlex

from conftest import REPOSITORY

COMMAND = re.compile(r"^ {4}hallo3 (.+)$", re.MULTILINE)


def commands() -> list[list[str]]:
    """Words behind ``hallo3``, line by line, and one ``inspect``."""
    text = (REPOSITORY / "docs" / "how-to" / "released-weights.md").read_text(encoding="utf-8")
    return [*(shlex.split(line) for line in COMMAND.findall(text)), ["inspect", "FILE"]]
