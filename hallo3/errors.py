"""Errors a user can act on: what was found, what was expected, what to do."""

from __future__ import annotations

LONGEST = 1000


def sanitize(text: str) -> str:
    """A text that may hold anything, on one line and without what a terminal obeys."""
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:LONGEST]
    )
    return shown + ("..." if len(text) > LONGEST else "")


OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "status_alloc_failed",
)
"""What torch, its allocators and libraries, and the systems say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, whoever noticed."""
    return isinstance(error, MemoryError) or any(said in str(error).lower() for said in OUT_OF_MEMORY_TEXTS)


class Hallo3Error(Exception):
    """Anything this package refuses or cannot do, in a form fit for a user's eyes.

    The message has up to four lines: a headline, then ``found``, ``expected`` and ``do``.
    """

    def __init__(self, headline: str, *, found: str = "", expected: str = "", do: str = "") -> None:
        self.headline, self.found, self.expected, self.do = (
            sanitize(text) for text in (headline, found, expected, do)
        )
        lines = [self.headline]
        lines += [f"  {label:<9} {text}" for label, text in self._parts() if text]
        super().__init__("\n".join(lines))

    def _parts(self) -> tuple[tuple[str, str], ...]:
        return ("found", self.found), ("expected", self.expected), ("do", self.do)


class InputError(Hallo3Error):
    """A setting, path or prompt that cannot be used."""


class PortraitError(InputError):
    """A picture that cannot be read or is not fit to be a portrait."""


class FaceError(InputError):
    """No usable face, or an identity embedding the model was not trained with."""


class AudioError(InputError):
    """A recording that cannot be read or holds no usable speech."""


class CheckpointError(InputError):
    """Weights that are missing, damaged or belong to something else."""


class ShapeError(InputError):
    """A tensor or a size that does not fit the model's geometry."""


class DependencyError(Hallo3Error):
    """An optional library is needed here and is not installed."""


class OutputError(Hallo3Error):
    """A result could not be written."""
