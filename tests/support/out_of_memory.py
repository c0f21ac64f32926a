"""Memory that runs out where a test says so, in several libraries' words."""

from collections.abc import Callable
from itertools import count

import torch

from hallo3 import pipeline
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.pipeline import LocalRenderer
from hallo3.text_encoder import TextEncoder

STAGES: dict[str, tuple[object, str]] = {
    "prompt": (TextEncoder, "encode"),
    "portrait": (pipeline, "_encode_pixels"),
    "reference": (ReferenceNetwork, "features"),
    "prepare": (Hallo3Transformer, "prepare"),
    "encode": (LocalRenderer, "encode"),
    "listen": (Hallo3Transformer, "encode_audio"),
    "decode": (pipeline, "collect_frames"),
}
"""What runs in each stage; speech and sampling differ by caller."""
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
