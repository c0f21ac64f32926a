"""A segment's conditions as ComfyUI conditioning, and how ComfyUI batches them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError
from ...hallo3.identity import Identity

SEGMENT = "hallo3_segment"
"""Key of a conditioning entry's :class:`SegmentInput`."""
IDENTITY, AUDIO, LATENT_FRAMES = "hallo3_identity", "hallo3_windows", "hallo3_latent_frames"
"""Keyword arguments of the transformer."""
SILENT = ("negative", "empty_negative_prompt")
"""What ComfyUI's guiders call their unconditional branch."""

Conditioning = list[list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInput:
    """What one guidance branch of a segment reads: speech windows [1, F, window, layers, channels] and
    unscaled image latents [1, C, 1, h, w]."""

    identity: Identity
    windows: Tensor
    image_latents: Tensor

    @property
    def silent(self) -> SegmentInput:
        """The same without speech: what the unconditional branch hears."""
        return replace(self, windows=torch.zeros_like(self.windows))


class Shared(comfy.conds.CONDRegular):
    """A condition that is the same object for a whole batch: never repeated, never concatenated."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> Shared:
        del batch_size, kwargs
        return self

    def can_concat(self, other: Any) -> bool:
        same_frames = isinstance(self.cond, tuple) and self.cond == other.cond
        return self.cond is other.cond or same_frames

    def concat(self, others: Any) -> Any:
        del others
        return self.cond

    def size(self) -> list[int]:
        return [1]


def branches(
    positive: Conditioning | None, segment: SegmentInput, config: Hallo3Config
) -> tuple[Conditioning, Conditioning]:
    """Positive and negative conditioning of a segment: no prompt is zero text, and so is the negative,
    which hears nothing (facts 6). Raises ``InputError`` for text of another length or width."""
    trunk = config.trunk
    nothing: Conditioning = [[torch.zeros(1, trunk.text_tokens, trunk.text_dim), {}]]
    given = nothing if positive is None else [[fitting_text(t, config), extras] for t, extras in positive]
    return with_segment(given, segment), with_segment(nothing, segment.silent)


def with_segment(conditioning: Conditioning, segment: SegmentInput) -> Conditioning:
    """Conditioning whose every entry carries a segment's identity, speech and image latents."""
    return [[text, {**extras, SEGMENT: segment}] for text, extras in conditioning]


def fitting_text(text: Any, config: Hallo3Config) -> Tensor:
    """Text [B, M, text_dim] cut to the model's tokens: ComfyUI's T5 pads to them and does not cut."""
    trunk = config.trunk
    if (
        not isinstance(text, Tensor)
        or text.ndim != 3
        or text.shape[2] != trunk.text_dim
        or text.shape[1] < trunk.text_tokens
    ):
        raise InputError(
            "The positive conditioning does not fit this model.",
            found=f"text embeddings {list(text.shape)}" if isinstance(text, Tensor) else "no text embeddings",
            expected=f"at least {trunk.text_tokens} tokens of {trunk.text_dim} numbers",
            do="use T5-XXL (Load CLIP, type cogvideox); for the built-in model, the clip of its loader",
        )
    return text[:, : trunk.text_tokens]
