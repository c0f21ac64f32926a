"""Do segments continue from their motion frames? Moved motion frames must move what follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import (
    LocalRenderer,
    collect_frames,
    conditioning_pixels,
    encode_prompt,
    encode_speech,
)
from hallo3.settings import settings_for

from .cases import Case
from .suite import identity_of

PIXELS = 2
"""How far the motion frames are moved, to either side."""
NEXT = 3
"""New frames that are looked at."""


def carried(case: Case, models: Models, **changes: Any) -> float:
    """How far the first new frames of a segment move when its motion frames are moved sideways, as a share of
    that shift: 1 continues exactly from where they were, 0 ignores them."""
    settings = replace(settings_for(models.config.defaults), **changes)
    noise = make_noise(settings.seed)
    motion = models.config.segment.motion_frames
    with torch.inference_mode():
        who, speech = identity_of(case, models, settings), encode_speech(case.speech, models)
        renderer = LocalRenderer.prepare(who, speech, encode_prompt("", models), models, settings)
        canvas, segment = who.canvas.pixels, speech.plan[min(1, len(speech.plan) - 1)]

        def following(moved: int) -> Tensor:
            frames = torch.roll(canvas, moved, -1).expand(-1, -1, motion, -1, -1)
            shown = conditioning_pixels(canvas, frames, segment, noise, settings.motion_drop)
            latents = renderer.sample(renderer.encode(shown, segment, noise), segment, noise)
            return collect_frames(renderer.decode(latents), motion + NEXT)[0, :, motion : motion + NEXT]

        left, right = following(-PIXELS), following(PIXELS)
    return moved_by(left, right) / (2 * PIXELS)


def moved_by(before: Tensor, after: Tensor) -> float:
    """Pixels that a picture [..., H, W] has moved to the right, to first order, by least squares."""
    middle = (before + after) / 2
    slope = (middle[..., 2:] - middle[..., :-2]) / 2
    change = (after - before)[..., 1:-1]
    return float(-(slope * change).sum() / slope.square().sum())
