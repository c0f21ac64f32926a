"""Do segments continue from their motion frames? Shifted motion frames must shift the new frames."""

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
from .suite import make_identity

SHIFT_PIXELS = 2
"""To either side."""
NEW_FRAMES = 3


def measure_carry(case: Case, models: Models, **changes: Any) -> float:
    """Shift of a segment's first new frames, relative to the sideways shift of its motion frames: 1 continues
    exactly, 0 ignores them."""
    settings = replace(settings_for(models.config.defaults), **changes)
    noise = make_noise(settings.seed)
    motion = models.config.segment.motion_frames
    with torch.inference_mode():
        identity, speech = (
            make_identity(case, models, settings),
            encode_speech(case.speakers[0].speech, models),
        )
        renderer = LocalRenderer.prepare(identity, speech, encode_prompt("", models), models, settings)
        canvas, segment = identity.canvas.pixels, speech.plan[min(1, len(speech.plan) - 1)]

        def render_after(shift: int) -> Tensor:
            frames = torch.roll(canvas, shift, -1).expand(-1, -1, motion, -1, -1)
            pixels = conditioning_pixels(canvas, frames, segment, noise, settings.motion_drop)
            latents = renderer.sample(renderer.encode(pixels, segment, noise), segment, noise)
            end = motion + NEW_FRAMES
            return collect_frames(renderer.decode(latents), end)[0, :, motion:end]

        left, right = render_after(-SHIFT_PIXELS), render_after(SHIFT_PIXELS)
    return measure_shift(left, right) / (2 * SHIFT_PIXELS)


def measure_shift(before: Tensor, after: Tensor) -> float:
    """Pixels that a picture [..., H, W] has moved to the right, to first order, by least squares."""
    middle = (before + after) / 2
    slope = (middle[..., 2:] - middle[..., :-2]) / 2
    change = (after - before)[..., 1:-1]
    return float(-(slope * change).sum() / slope.square().sum())
