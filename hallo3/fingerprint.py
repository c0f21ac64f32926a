"""By what a model is known in any precision and any file: a few of its small weights.

A hash of a file would tell one precision of a model from another, though an identity is for all of them.
Rounding to bf16 moves these weights by less than half a per cent; this package never stores them in eight
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .weights.part import find_part
from .weights.source import open_source

NAMES = ("face_proj.norm.weight", "face_proj.norm.bias", "face_proj.proj.bias")
"""How the transformer takes in a face: its own in every model, and not touched by LoRA."""
FIRST = 64
"""Numbers of each that are looked at."""
NEAR = 0.02
"""Models are the same if their fingerprints are no further apart than this share of their length."""
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
ROUNDED = 0.01
"""The same for a fingerprint and one that has been rounded to eight bits alike."""


def fingerprint(read: Callable[[str], Tensor]) -> Tensor:
    """The fingerprint [n] float32 of a transformer, whose tensors ``read`` hands out by our names."""
    return torch.cat([read(name).detach().flatten()[:FIRST].float().cpu() for name in NAMES])


def fingerprint_in(path: Path) -> Tensor:
    """The fingerprint of the transformer in a file or folder, which is not loaded. Raises
    ``CheckpointError``."""
    with open_source(path) as source:
        found = find_part(source, "transformer")
        return fingerprint(lambda name: found.tensor(name, torch.float32))


def same_model(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are of one model, but for rounding: that of any type is near, and one may be
    the other in eight bits, as ComfyUI stores all weights where it is asked to."""
    one, other = one.double(), other.double()
    if one.shape != other.shape or not bool((one.isfinite() & other.isfinite()).all()):
        return False
    if _apart(one, other) <= NEAR:
        return True
    pairs = ((one, other), (other, one))
    return any(_apart(a.float().to(kind).double(), b) <= ROUNDED for kind in FP8 for a, b in pairs)


def _apart(one: Tensor, other: Tensor) -> float:
    """Their distance in shares of the first one's length."""
    length = float(one.square().sum().sqrt())
    return float((one - other).square().sum().sqrt()) / length if length else float("inf")
