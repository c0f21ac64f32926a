"""The option ``--vram``."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

AUTO_VRAM = "auto"


def vram_option(add: Callable[..., Any]) -> None:
    """Give a group of options ``--vram``, by its ``add_argument``."""
    add(
        "--vram",
        type=gigabytes,
        metavar="GB",
        help="use at most so much of the GPU's memory, in 10^9 bytes, for all that a run does; exact: what "
        "does not fit comes when it is needed. With --plan no GPU is needed (default: auto, what a CUDA GPU "
        "has free; --low-memory and --offload switch the plan off)",
    )


def gigabytes(text: str) -> float | str:
    """Gigabytes, or ``auto``."""
    if text == AUTO_VRAM:
        return text
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a number of GB nor {AUTO_VRAM}") from None
