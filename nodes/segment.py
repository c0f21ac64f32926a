"""One segment between ComfyUI's values: what is shown to the VAE, what is heard, what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..hallo3.config import Defaults
from ..hallo3.errors import InputError
from ..hallo3.identity import Identity
from ..hallo3.noise import Noise
from ..hallo3.pipeline import first_motion, shown_pixels
from ..hallo3.segments import Segment
from ..hallo3.settings import Settings, settings_for
from .host.conditioning import SegmentInput
from .host.speech import SpeechSocket
from .sockets import KEEP
from .values import motion_of


def checked(seed: int, motion_drop: float, steps: int = 1, guidance_scale: float = 1.0) -> Settings:
    """The numbers of a node's widgets, which ComfyUI checks in part. Raises ``InputError``."""
    settings = settings_for(Defaults(), steps=steps, guidance_scale=guidance_scale, seed=seed)
    return replace(settings, motion_drop=motion_drop)


def shown(
    identity: Identity, socket: SpeechSocket, segment: Segment, images: Any, noise: Noise, motion_drop: float
) -> Tensor:
    """What the VAE encodes for a segment: portrait and motion frames [1, 3, F, H, W] in -1..1.

    Raises ``InputError`` if a later segment has no motion frames to go on from.
    """
    canvas, plan = identity.canvas.pixels, socket.speech.plan
    if images is not None:
        motion = motion_of(images, canvas, plan.config.motion_frames)
    elif segment.index == 0:
        motion = first_motion(canvas, plan)
    else:
        raise InputError(
            "This segment has nothing to go on from.",
            found=f"segment {segment.index} without motion frames",
            expected=f"the last {plan.config.motion_frames} frames of segment {segment.index - 1}",
            do="connect motion_frames of its Hallo3 VAE Decode, or use Hallo3 Extrapolate",
        )
    return shown_pixels(canvas, motion, segment, noise, motion_drop)


def heard(identity: Identity, socket: SpeechSocket, segment: Segment, image_latents: Tensor) -> SegmentInput:
    """What the model reads of a segment."""
    windows = socket.speech.segment(segment.index)
    return SegmentInput(identity=identity, windows=windows, image_latents=image_latents)


def latent_of(latents: Tensor, segment: Segment) -> dict[str, Any]:
    """A segment's LATENT; it remembers which frames are new."""
    return {"samples": latents, KEEP: (segment.keep.start, segment.keep.stop, latents.shape[2])}


def empty_latents(channels: int, grid: tuple[int, ...]) -> Tensor:
    """The latents that ComfyUI's samplers put noise on."""
    return torch.zeros(1, channels, *grid)
