"""Errors a user can act on: what was found, what was expected, how to fix it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

MAX_TEXT = 1000


def sanitize(text: str) -> str:
    """Make text one line and strip terminal control characters."""
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:MAX_TEXT]
    )
    return shown + ("..." if len(text) > MAX_TEXT else "")


def hide_paths(text: str) -> str:
    """Replace whatever may be a path by FILE."""
    return re.sub(r"\S*[/\\~]\S*", "FILE", text)


OUT_OF_MEMORY_TEXTS = (
    *(f"{word} allocate" for word in ("can't", "cannot", "could not", "failed to", "unable to")),
    "out of memory",
    "out of device memory",
    "out of host memory",
    "outofmemory",
    "not enough memory",
    "insufficient memory",
    "alloc failed",
    "could not create a memory",  # oneDNN
    "allocation failed",
    "bad alloc",  # C++; "bad allocation" on Windows
    "memoryallocation",
    "paging file is too small",
    "not enough storage is available",
    "insufficient system resources",
    "invalid buffer size",  # MPS, for more than it can allocate at once
    "unable to find an engine",  # cuDNN: none is left where their workspaces are refused
    "cublas status not initialized",  # a library's own memory, when its handle is made
    "cudnn status not initialized",
)
"""What torch, its allocators and libraries, and operating systems say, in small letters without ``_``."""
RAM_TEXTS = "cpuallocator", "host memory", "host alloc", "bad alloc", "paging file", "system resources"
MEMORY_ERRNO, MEMORY_WINERRORS = errno.ENOMEM, (8, 14, 1455)
MAX_CAUSES = 20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in torch, a library or the operating system, here or in an error's cause."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        if isinstance(cause, MemoryError) or _says_out_of_memory(cause):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def is_out_of_ram(error: BaseException) -> bool:
    """Whether what ran out of memory was the computer and not a device."""
    text = describe_error(error).lower().replace("_", " ")
    return isinstance(error, MemoryError | OSError) or any(each in text for each in RAM_TEXTS)


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):  # whose text may be a file's name
        return error.errno == MEMORY_ERRNO or getattr(error, "winerror", None) in MEMORY_WINERRORS
    if isinstance(error, Hallo3Error):
        return False
    text = describe_error(error).lower().replace("_", " ")
    return any(each in text for each in OUT_OF_MEMORY_TEXTS)


def describe_error(error: BaseException) -> str:
    """A library's error in one line: its type and what it says."""
    try:
        text = str(error)
    except Exception:  # its type is shown all the same
        text = ""
    return sanitize(f"{type(error).__name__}: {' '.join(text.split())}".removesuffix(": "))


class Hallo3Error(Exception):
    """Base class of this package's errors, readable by users.

    The message has up to four lines: a headline, then ``found``, ``expected`` and ``fix``. ``may_pass`` is
    set where the same may succeed later: a disk is full, a storage does not answer. Tracebacks and ComfyUI's
    page name the error ``hallo3.…``, wherever the package is.
    """

    __module__ = "hallo3"

    def __init_subclass__(cls) -> None:
        cls.__module__ = Hallo3Error.__module__

    def __init__(
        self, headline: str, *, found: str = "", expected: str = "", fix: str = "", may_pass: bool = False
    ) -> None:
        self.may_pass = may_pass
        self.headline, self.found, self.expected, self.fix = map(sanitize, (headline, found, expected, fix))
        parts = ("Found:", self.found), ("Expected:", self.expected), ("Fix:", self.fix)
        super().__init__(
            "\n".join([self.headline, *(f"  {label:<9} {text}" for label, text in parts if text)])
        )


class InputError(Hallo3Error):
    """A setting, path or prompt that cannot be used."""


class PortraitError(InputError):
    """A picture that cannot be read or used as a portrait."""


class FaceError(InputError):
    """No usable face, or a face embedding that the model was not trained with."""


class AudioError(InputError):
    """A recording that cannot be read or holds no usable speech."""


class CheckpointError(InputError):
    """Weights that are missing, damaged or of another model."""


class ShapeError(InputError):
    """A tensor or size that does not fit the model."""


class DependencyError(Hallo3Error):
    """An optional library that is needed is not installed."""


class OutputError(Hallo3Error):
    """A result could not be written."""


class BusyError(OutputError):
    """Another run is working on it."""


def check_choice(value: object, choices: Iterable[str], what: str) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``; ``what`` names the setting."""
    names = list(choices)
    if value not in names:
        raise InputError(
            f"Unknown {what}.",
            found=repr(value)[:60],
            expected=" or ".join(names),
            fix="choose one of these",
        )


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Raise ``InputError`` unless ``low <= value <= high``; ``what`` names the setting."""
    if not low <= value <= high:  # NaN is in no range
        raise InputError(
            f"The {what} is out of range.",
            found=str(value),
            expected=f"{low} to {high}",
            fix="choose a value in that range",
        )
