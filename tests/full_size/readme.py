"""The README's commands for the released weights, as a user types them."""

import re
import shlex

from conftest import REPOSITORY

SECTION = "## The released weights"
COMMAND = re.compile(r"^ {4}\.venv/bin/python -m hallo3 (.+)$", re.MULTILINE)


def commands() -> list[list[str]]:
    """Words behind ``python -m hallo3``, line by line."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text[text.index(SECTION) :].split("\n## ")[0]
    return [shlex.split(line, comments=True) for line in COMMAND.findall(section)]
