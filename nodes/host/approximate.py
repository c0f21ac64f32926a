"""What ComfyUI itself approximates, by the options it was started with: no workflow says it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import comfy.cli_args

from .transformer import attention_in_use

EXACT = (
    "attention_basic",
    "attention_flash",
    "attention_pytorch",
    "attention_split",
    "attention_sub_quad",
    "attention_xformers",
)
"""ComfyUI's attentions that differ from one another by rounding only."""
ROUNDING = ("autotune",)
"""Values of ``--fast`` that choose another kernel and give nothing up."""


def approximations() -> tuple[str, ...]:
    """What ComfyUI gives up, in words that last: an attention that is not known to be exact, and what
    ``--fast`` says. Empty where it computes exactly.

    What a node puts in an attention's place is part of the workflow, and not looked at here.
    """
    selected = attention_in_use()
    attention = () if selected in EXACT else (selected,)
    return (*attention, *(f"--fast {name}" for name in sorted(_fast()) if name not in ROUNDING))


def _fast() -> set[str]:
    """The values of ``--fast``; where it has none of its own, that it is there."""
    given: Any = getattr(getattr(comfy.cli_args, "args", None), "fast", None)
    if not given:
        return set()
    if not isinstance(given, Iterable) or isinstance(given, str):
        return {"everything" if given is True else str(given)}
    return {str(getattr(each, "value", each)) for each in cast("Iterable[Any]", given)}
