"""Classifier-free guidance: ``predict(latents, step)`` -> velocities, the unconditional branch first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from .attention import KV, SpeakersKV
from .layers import LazyParameters
from .transformer import Conditions, Hallo3Transformer, RunConditions, SegmentConditions

Predict = Callable[[Tensor, int], Tensor]
"""Latents [1, C, T, H, W] and a step index -> velocities of every branch [B, C, T, H, W]."""


def branches(run: RunConditions, segment: SegmentConditions) -> tuple[Conditions, Conditions]:
    """The unconditional branch has zero text and silent audio, the same for all speakers; face, reference and
    image latents stay (facts 6)."""
    text = segment.text
    return _conditions(run, text[:1], run.silence), _conditions(run, text[1:], segment.audio)


def _conditions(run: RunConditions, text: Tensor, audio: Sequence[KV | SpeakersKV]) -> Conditions:
    return Conditions(text=text, reference=run.reference, face=run.face, audio=audio, rotary=run.rotary)


def batched_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """One forward pass of a batch of 2, as in the original."""

    def pair(index: int) -> KV | SpeakersKV:
        silence, audio = run.silence[index], segment.audio[index]
        if isinstance(audio, KV):
            return _concat(silence, audio)
        return audio._replace(speakers=tuple(_concat(silence, cast(KV, each)) for each in audio.speakers))

    both = _conditions(run, segment.text, LazyParameters(pair, len(run.silence)))
    return partial(_forward, dit, run, segment, both)


def _concat(*parts: KV) -> KV:
    return KV(*(torch.cat(side) for side in zip(*parts, strict=True)))


def sequential_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """Two forward passes: half the activations, the same numbers."""
    both = branches(run, segment)
    return lambda latents, step: torch.cat([_forward(dit, run, segment, b, latents, step) for b in both])


def layer_major_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """Both branches through each block in turn, so that streamed weights are fetched once per step."""
    both = branches(run, segment)

    def predict(latents: Tensor, step: int) -> Tensor:
        noisy, image_latents = latents.to(segment.text), segment.image_latents.to(segment.text)
        return torch.cat(dit.forward_layerwise(noisy, image_latents, run.steps[step], both))

    return predict


GUIDANCE_PASSES: dict[str, Callable[[Hallo3Transformer, RunConditions, SegmentConditions], Predict]] = {
    "batched": batched_branches,
    "sequential": sequential_branches,
    "layer-major": layer_major_branches,
}


def single_branch(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """The conditional branch alone, for a guidance scale of 1."""
    return partial(_forward, dit, run, segment, branches(run, segment)[1])


def _forward(
    dit: Hallo3Transformer,
    run: RunConditions,
    segment: SegmentConditions,
    conditions: Conditions,
    latents: Tensor,
    step: int,
) -> Tensor:
    noisy = latents.to(segment.text).expand(len(conditions.text), -1, -1, -1, -1)
    image_latents = segment.image_latents.to(noisy).expand_as(noisy)
    return dit(noisy, image_latents, run.steps[step], conditions)
