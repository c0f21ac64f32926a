"""Memory that runs out where a test says so, in several libraries' words."""

from collections.abc import Callable
from itertools import count

import torch

ERRORS: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuDNN": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
    "Python": MemoryError,
}


def failing(kind: str, *calls: int) -> Callable[[], None]:
    """Memory runs out in these calls, counted from 0."""
    number = count()

    def fail() -> None:
        if next(number) in calls:
            raise ERRORS[kind]()

    return fail
