"""Classifier-free guidance: ``predict(latents, step)`` -> velocities of the step's branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from ..sampling.samplers import CONDITIONAL, PAIR, UNCONDITIONAL, predict_by_step
from .attention import KV, SpeakersKV
from .layers import LazyParameters
from .transformer import Conditions, Hallo3Transformer, RunConditions, SegmentConditions

Predict = Callable[[Tensor, int], Tensor]
"""Latents [1, C, T, H, W] and a step index -> velocities of every branch [B, C, T, H, W]."""


def branch_conditions(
    run: RunConditions, segment: SegmentConditions, branches: Sequence[str]
) -> list[Conditions]:
    """Of each branch; all speakers share the silence."""
    return [
        _conditions(
            run,
            segment.text[:1] if each == UNCONDITIONAL else segment.text[1:],
            segment.audio if each == CONDITIONAL else run.silence,
        )
        for each in branches
    ]


def _conditions(run: RunConditions, text: Tensor, audio: Sequence[KV | SpeakersKV]) -> Conditions:
    return Conditions(text=text, reference=run.reference, face=run.face, audio=audio, rotary=run.rotary)


def batched_branches(
    dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions, branches: Sequence[str] = PAIR
) -> Predict:
    """One forward pass of a batch of all branches, as in the original."""

    def audio(index: int) -> KV | SpeakersKV:
        silence, speech = run.silence[index], segment.audio[index]

        def concat(voice: KV) -> KV:
            parts = [voice if each == CONDITIONAL else silence for each in branches]
            return KV(*(torch.cat(side) for side in zip(*parts, strict=True)))

        if isinstance(speech, KV):
            return concat(speech)
        return speech._replace(speakers=tuple(concat(cast(KV, each)) for each in speech.speakers))

    zero, given, text = segment.text[:1], segment.text[1:], segment.text
    if branches != PAIR:
        text = torch.cat([zero if each == UNCONDITIONAL else given for each in branches])
    conditions = _conditions(run, text, LazyParameters(audio, len(run.silence)))
    return partial(_forward, dit, run, segment, conditions)


def sequential_branches(
    dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions, branches: Sequence[str] = PAIR
) -> Predict:
    """A forward pass per branch: less memory for activations, the same numbers."""
    each = branch_conditions(run, segment, branches)
    return lambda latents, step: torch.cat([_forward(dit, run, segment, c, latents, step) for c in each])


def layer_major_branches(
    dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions, branches: Sequence[str] = PAIR
) -> Predict:
    """All branches through each block in turn, so that streamed weights are fetched once per step."""
    each = branch_conditions(run, segment, branches)

    def predict(latents: Tensor, step: int) -> Tensor:
        noisy, image_latents = latents.to(segment.text), segment.image_latents.to(segment.text)
        return torch.cat(dit.forward_layerwise(noisy, image_latents, run.steps[step], each))

    return predict


class GuidancePass(Protocol):
    def __call__(
        self,
        dit: Hallo3Transformer,
        run: RunConditions,
        segment: SegmentConditions,
        branches: Sequence[str] = PAIR,
        /,
    ) -> Predict: ...


GUIDANCE_PASSES: dict[str, GuidancePass] = {
    "batched": batched_branches,
    "sequential": sequential_branches,
    "layer-major": layer_major_branches,
}


def single_branch(
    dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions, branch: str = CONDITIONAL
) -> Predict:
    """One branch alone."""
    return partial(_forward, dit, run, segment, *branch_conditions(run, segment, (branch,)))


def predict_branches(
    dit: Hallo3Transformer,
    run: RunConditions,
    segment: SegmentConditions,
    steps: Sequence[tuple[str, ...]],
    passes: str,
) -> Predict:
    """Predict the branches of every step."""
    predicts = {
        each: single_branch(dit, run, segment, *each)
        if len(each) == 1
        else GUIDANCE_PASSES[passes](dit, run, segment, each)
        for each in set(steps)
    }
    return predict_by_step(steps, predicts)


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
