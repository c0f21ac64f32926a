"""A SentencePiece model like T5's ``spiece.model``, written field by field (sentencepiece_model.proto)."""

import struct
from itertools import product
from string import ascii_lowercase, ascii_uppercase, digits, punctuation

from support.onnx_builder import field

SPACE = "\u2581"  # how SentencePiece writes a space
PIECES = 32000  # T5's; its tokenizer adds a hundred of its own
WORDS = ("a", "the", "of", "and", "to", "in", "is", "person", "talks", "camera", "face", "with", "smiles")
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
UNIGRAM = 1


def vocabulary() -> list[tuple[str, float, int]]:
    """Pieces with score and kind: T5's marks, then words before syllables before letters."""
    letters = ascii_lowercase + ascii_uppercase + digits + punctuation
    syllables = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
    ranked = [(SPACE + word, -6.0) for word in WORDS] + [(SPACE, -7.0)]
    ranked += [(start + pair, -11.0) for start in (SPACE, "") for pair in syllables]
    ranked += [(letter, -13.0) for letter in letters]
    longer = ["".join(three) for three in product(ascii_lowercase, repeat=3)]
    ranked += [(SPACE + each, -14.0) for each in longer] + [(each, -15.0) for each in longer]
    ranked = list(dict(reversed(ranked)).items())[::-1]  # a piece once, with its best score
    marks = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    return marks + [(piece, score, NORMAL) for piece, score in ranked[: PIECES - len(marks)]]


def sentencepiece_model(count: int = PIECES) -> bytes:
    """With the best ``count`` pieces."""

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, text) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + field(3, kind)

    trainer = field(3, UNIGRAM) + field(4, count) + field(40, 2) + field(41, -1) + field(42, 1) + field(43, 0)
    normalizer = field(1, "identity") + field(3, 1) + field(4, 1) + field(5, 1)
    pieces = b"".join(field(1, piece(*each)) for each in vocabulary()[:count])
    return pieces + field(2, trainer) + field(3, normalizer)
