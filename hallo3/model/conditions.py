"""Prepared conditions, constant for a run or for a segment.

B batch, T latent frames, M text tokens, D width. Sequences have one item per block: tuples, or
``LazyParameters``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import KV, FoldedKV
from .blocks import Modulation
from .embeddings import Rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConditions:
    """Constant for a run.

    ``text`` [2, M, D] has projected text tokens, unconditional (zero text) first. ``silence`` is the audio of
    the unconditional branch: all-zero windows, projected. ``steps`` has one modulation per step.
    """

    text: Tensor
    reference: Sequence[KV]
    face: Sequence[FoldedKV]
    silence: Sequence[KV]
    rotary: Rotary
    steps: Sequence[Modulation]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConditions:
    """Constant for a segment: audio keys/values [T, H, n, d] and image latents [1, C, T, H, W]."""

    audio: Sequence[KV]
    image_latents: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions of one forward pass, for a batch of B guidance branches."""

    text: Tensor
    reference: Sequence[KV]
    face: Sequence[KV | FoldedKV]
    audio: Sequence[KV]
    rotary: Rotary
