"""Phrases that we do not write, with what a native engineer writes instead."""

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

BANNED = {
    r"anew": "again, re-render",
    r"(?:go|goes|going|gone|went) on": "resume, continue",
    r"left out|leave (?:it|them) out": "default, omit",
    r"by (?:itself|themselves)": "automatically, alone",
    r"at hand": "available, missing",
    r"put(?:s|ting)? out": "output",
    r"nobody": "no one, no identity",
    r"so (?:many|much)": "a number, a size",
    r"(?:is|are) to be": "must, will",
    r"(?:is|are|was|were|be|been) told": "warn, report",
    r"asleep|to wake": "muted",
    r"who is on it|is heard|was heard|be heard": "identity; speech features",
    r"fore(?:tell|told)": "predict",
    r"made by a machine": "AI-generated",
    r"to do harm": "malicious",
    r"values that are not numbers": "NaN values",
    r"(?:\d|px|bytes|steps|tokens|scale|once),? an? (?:side|second|minute|step|segment|frame)": "per",
    r"listened to": "processed",
}
FILE_KEYS = {'"goes on from"'}
"""Keys in files that users have."""
PATTERN = re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in BANNED), re.IGNORECASE)


def find_banned(path: Path) -> Iterator[str]:
    """``line: phrase`` for every banned phrase in a text file, or in the comments and strings of Python."""
    for line, text in _python_texts(path) if path.suffix == ".py" else _lines(path):
        yield from (f"{path.name}:{line}: {match.group()}" for match in PATTERN.finditer(text))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))


def _python_texts(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING) and token.string not in FILE_KEYS:
                yield token.start[0], " ".join(token.string.split())
