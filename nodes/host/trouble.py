"""Errors in the form in which ComfyUI acts on them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from ...hallo3.errors import Hallo3Error, is_short_of_memory


class OutOfMemory(torch.OutOfMemoryError):
    """Memory ran out: ComfyUI unloads its models on this, and on no other error."""


@contextmanager
def memory_told(advice: str) -> Generator[None]:
    """Memory that runs out in the block, whoever noticed, is told with what to do about it."""
    try:
        yield
    except (OutOfMemory, Hallo3Error):
        raise
    except Exception as error:
        if not is_short_of_memory(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        told = Hallo3Error("Out of memory.", found=f"{type(error).__name__} {first}".strip(), do=advice)
        raise OutOfMemory(str(told)) from error
