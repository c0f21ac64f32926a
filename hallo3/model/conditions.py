"""Prepared conditions as plain values: constant for a run, or for a segment.

B batch, T latent frames, M text tokens, D width. Sequences have one item a block; whether they hold
their items or make them on access, the networks cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import KV, FoldedKV
from .blocks import BlockConditions, Modulation
from .embeddings import Rotary
from .layers import LazyParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConditions:
    """What a portrait, a prompt and a step count fix for the whole run.

    ``text`` [2, M, D] holds projected text tokens, unconditional (zero text) first. ``silence`` is the
    audio of the unconditional branch: all-zero windows, projected. ``steps`` has a modulation a step.
    """

    text: Tensor
    reference: Sequence[KV]
    face: Sequence[FoldedKV]
    silence: Sequence[KV]
    rotary: Rotary
    steps: Sequence[Modulation]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConditions:
    """What one segment adds: its audio keys/values [T, H, n, d] and image latents [1, C, T, H, W]."""

    audio: Sequence[KV]
    image_latents: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What one forward pass reads, for a batch of B guidance branches."""

    text: Tensor
    reference: Sequence[KV]
    face: Sequence[KV | FoldedKV]
    audio: Sequence[KV]
    rotary: Rotary

    def block(self, index: int) -> BlockConditions:
        """What one block hears."""
        return BlockConditions(self.reference[index], self.face[index], self.audio[index])


def unconditional(run: RunConditions) -> Conditions:
    """Zero text and silent audio; face, reference and image latents stay (facts 6)."""
    return _conditions(run, run.text[:1], run.silence)


def conditional(run: RunConditions, segment: SegmentConditions) -> Conditions:
    """The prompt and the segment's speech."""
    return _conditions(run, run.text[1:], segment.audio)


def paired(run: RunConditions, segment: SegmentConditions) -> Conditions:
    """Both branches as one batch of 2, the unconditional first."""

    def pair(index: int) -> KV:
        halves = zip(run.silence[index], segment.audio[index], strict=True)
        return KV(*(torch.cat(sides) for sides in halves))

    return _conditions(run, run.text, LazyParameters(pair, len(run.silence)))


def _conditions(run: RunConditions, text: Tensor, audio: Sequence[KV]) -> Conditions:
    return Conditions(text=text, reference=run.reference, face=run.face, audio=audio, rotary=run.rotary)
