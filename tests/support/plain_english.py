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
FORMER = """
looks at a portrait once; everything that a talking portrait needs; can leave the memory before; how
weights are held; which version redo asks for; another number is another version; output job of the
node; what the video is kept as; which of several faces, by its number; from a node that detects; which
of the drawn people; with their bars; looks again; of this computer's; no earlier run to go by; are
finished already; cannot be done again; or a stretch such as; cannot be a ceiling; cannot be encoded so;
animate one portrait from speech; faces turned away; number by number; what ships with it; nothing has
been run yet; for your own, put; in the place of hallo3 sample; press the round i; spelled out for two;
everything at once, without files; will take of disk; hours of it; to what each segment hears; crops
round the face; redone in parts; portrait and a sentence; where the missing belong; it says what is
finished; will not look like the person; there a square picture; true silence for the model; which is of
second order; those after them stay; is put aside; for all that a run does; takes them on a gpu; and its
kin; only where you name them; begins another job; after they were last used; comes from memory or disk
while it computes; no time is promised; does not compute steps whose; with a known answer; near to the
truth; nothing in them is run; also not by mistake; one scale a matrix; it maps into memory; is a
recorded run of the original code; the same for another recording; people who agree to it
"""
"""Parts of sentences that users read before they were edited."""
FILE_KEYS = {'"goes on from"'}
"""Keys in files that users have."""
PATTERN = re.compile(
    rf"\b(?:{'|'.join((*BANNED, *map(re.escape, ' '.join(FORMER.split()).split('; '))))})\b".replace(
        "\\ ", " "
    ).replace(" ", r"\s+"),
    re.IGNORECASE,
)
QUOTES = re.compile(r"^[a-zA-Z]*(\"{3}|'{3}|[\"'])(.*)\1$", re.DOTALL)


def find_banned(path: Path) -> Iterator[str]:
    """``line: phrase`` for every banned phrase in a text file, or in the comments and strings of Python."""
    texts = _python_texts(path) if path.suffix == ".py" else [(1, path.read_text(encoding="utf-8"))]
    for first, text in texts:
        for match in PATTERN.finditer(text):
            line = first + text.count("\n", 0, match.start())
            yield f"{path.name}:{line}: {' '.join(match.group().split())}"


def _python_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Comments on lines that follow each other, and strings that Python joins, as one text."""
    kind, first, parts = 0, 0, list[str]()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NL:
                continue
            if token.type != kind:
                yield first, "".join(parts)
                kind, first, parts = token.type, token.start[0], []
            if token.type == tokenize.COMMENT:
                parts.append(token.string.lstrip("# ") + "\n")
            elif token.type == tokenize.STRING and token.string not in FILE_KEYS:
                parts.append(QUOTES.sub(r"\2", token.string))
