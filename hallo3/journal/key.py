"""By what a job is known again: a hash of everything that decides its pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

BLOCK = 1 << 20


def key_of(facts: Mapping[str, Any]) -> str:
    """The key of these facts: names with texts, numbers, and lists and maps of them, in any order.

    Raises ``ValueError`` for numbers that are none.
    """
    return sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def content_of(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises ``OSError``."""
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def digest(values: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    flat = values.detach().cpu().contiguous()
    found = sha256(f"{flat.dtype} {list(flat.shape)} ".encode())
    found.update(raw_bytes(flat))
    return found.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))
