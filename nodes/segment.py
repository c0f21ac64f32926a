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
from ..hallo3.settings import settings_for
from .host.conditioning import SegmentInput
from .host.speech import SpeechSocket
from .host.vae import encode
from .sockets import KEEP
from .values import motion_of


def check_numbers(seed: int, motion_drop: float, steps: int = 1, guidance_scale: float = 1.0) -> None:
    """Refuse numbers of a node's widgets that ComfyUI lets through, such as NaN. Raises ``InputError``."""
    settings = settings_for(Defaults(), steps=steps, guidance_scale=guidance_scale, seed=seed)
    replace(settings, motion_drop=motion_drop)


def segment_input(
    identity: Identity,
    socket: SpeechSocket,
    segment: Segment,
    vae: Any,
    motion_frames: Any,
    noise: Noise,
    motion_drop: float,
) -> SegmentInput:
    """What the model reads of a segment that is made by itself; ``motion_frames`` as IMAGE or None.

    Raises ``InputError`` if a later segment has no motion frames to go on from.
    """
    canvas, plan = identity.canvas.pixels, socket.speech.plan
    if motion_frames is not None:
        motion = motion_of(motion_frames, canvas, plan.config.motion_frames)
    elif segment.index == 0:
        motion = first_motion(canvas, plan)
    else:
        raise InputError(
            "This segment has nothing to go on from.",
            found=f"segment {segment.index} without motion frames",
            expected=f"the last {plan.config.motion_frames} frames of segment {segment.index - 1}",
            do="connect motion_frames of its Hallo3 VAE Decode, or use Hallo3 Extrapolate",
        )
    shown = shown_pixels(canvas, motion, segment, noise, motion_drop)
    return heard(identity, socket, segment, encode(vae, shown))


def heard(identity: Identity, socket: SpeechSocket, segment: Segment, image_latents: Tensor) -> SegmentInput:
    """What the model reads of a segment whose image latents are made."""
    windows = socket.speech.segment(segment.index)
    return SegmentInput(identity=identity, windows=windows, image_latents=image_latents)


def latent_of(latents: Tensor, segment: Segment) -> dict[str, Any]:
    """A segment's LATENT; it remembers which frames are new."""
    return {"samples": latents, KEEP: (segment.keep.start, segment.keep.stop, latents.shape[2])}


def empty_latents(channels: int, grid: tuple[int, ...]) -> Tensor:
    """The latents that ComfyUI's samplers put noise on."""
    return torch.zeros(1, channels, *grid)
