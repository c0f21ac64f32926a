"""Both guidance branches behind one call: ``predict(latents, step)`` -> velocities, unconditional first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .conditions import Conditions, RunConditions, SegmentConditions, conditional, paired, unconditional
from .transformer import Hallo3Transformer

Predict = Callable[[Tensor, int], Tensor]
"""Latents [1, C, T, H, W] and a step index -> velocities of every branch [B, C, T, H, W]."""


def batched_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """One forward pass for both branches, as the original does."""
    both = paired(run, segment)
    return lambda latents, step: _forward(dit, run, segment, both, latents, step)


def sequential_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """One forward pass after the other: half the activations, the same numbers."""
    one_by_one = unconditional(run), conditional(run, segment)

    def predict(latents: Tensor, step: int) -> Tensor:
        return torch.cat([_forward(dit, run, segment, branch, latents, step) for branch in one_by_one])

    return predict


def layer_major_branches(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """Both passes abreast, block by block: for weights that come from elsewhere, which come once a step."""
    both = unconditional(run), conditional(run, segment)

    def predict(latents: Tensor, step: int) -> Tensor:
        noisy, image_latents = latents.to(run.text), segment.image_latents.to(run.text)
        return torch.cat(dit.forward_layerwise(noisy, image_latents, run.steps[step], both))

    return predict


GUIDANCE_PASSES: dict[str, Callable[[Hallo3Transformer, RunConditions, SegmentConditions], Predict]] = {
    "batched": batched_branches,
    "sequential": sequential_branches,
    "layer-major": layer_major_branches,
}
"""How both guidance branches are computed, by name."""


def single_branch(dit: Hallo3Transformer, run: RunConditions, segment: SegmentConditions) -> Predict:
    """The conditional branch alone, for a guidance scale of 1."""
    alone = conditional(run, segment)
    return lambda latents, step: _forward(dit, run, segment, alone, latents, step)


def _forward(
    dit: Hallo3Transformer,
    run: RunConditions,
    segment: SegmentConditions,
    heard: Conditions,
    latents: Tensor,
    step: int,
) -> Tensor:
    branches = len(heard.text)
    noisy = latents.to(run.text).expand(branches, -1, -1, -1, -1)
    image_latents = segment.image_latents.to(run.text).expand_as(noisy)
    return dit(noisy, image_latents, run.steps[step], heard)
