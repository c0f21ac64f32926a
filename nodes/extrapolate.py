"""Extrapolate: the loop over all segments of a speech, with ComfyUI behind its callables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..hallo3.identity import Identity
from ..hallo3.noise import seeded_noise
from ..hallo3.pipeline import render
from ..hallo3.segments import Segment
from ..hallo3.vae.codec import decode_slices
from . import inputs
from .host import vae as host_vae
from .host.memory import check_memory
from .host.progress import RunProgress
from .host.sampling import Sampling
from .host.speech import SpeechSocket
from .segment import check_numbers, heard
from .values import audio_of, check_fit


class Hallo3Extrapolate(io.ComfyNode):
    """A whole speech to IMAGE and VIDEO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Extrapolate",
            display_name="Hallo3 Extrapolate",
            category="Hallo3",
            description=(
                "The whole talking portrait: samples and decodes segment after segment, each going on from "
                "the last frames of the one before, for as long as the speech lasts."
            ),
            search_aliases=[
                "hallo3",
                "talking portrait",
                "talking head",
                "lip sync",
                "long video",
                "animate",
            ],
            inputs=[
                *inputs.networks(),
                *inputs.who_and_what(),
                inputs.seed(),
                *inputs.steps_and_guidance(),
                inputs.motion_drop(),
                inputs.positive(),
                *inputs.sampling_sockets(),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The finished video with its sound, for Save Video."),
                io.Image.Output("images", tooltip="Its frames, 25 a second, for other nodes."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        identity: Identity,
        speech: SpeechSocket,
        seed: int,
        steps: int,
        guidance_scale: float,
        motion_drop: float,
        positive: Any = None,
        guider: Any = None,
        sampler: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        check_numbers(seed, motion_drop, steps, guidance_scale)
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.config)
        frames = rendered(sampling, vae, identity, speech, seed, motion_drop)
        plan = speech.speech.plan
        size = plan.frames, identity.canvas.height, identity.canvas.width, 3
        check_memory(math.prod(size) * 4, f"{plan.frames} frames of {size[2]} x {size[1]} px")
        images = _gathered(frames, torch.empty(size))
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=images, audio=audio_of(speech.recording), frame_rate=Fraction(plan.config.fps)
            )
        )
        return io.NodeOutput(video, images)


def rendered(
    sampling: Sampling, vae: Any, identity: Identity, socket: SpeechSocket, seed: int, motion_drop: float
) -> Iterator[Tensor]:
    """Each segment's new frames [F, 3, h, w] in 0..1, without bars, as soon as they are finished."""
    plan, noise = socket.speech.plan, seeded_noise(seed)
    slices = len(decode_slices(sampling.config.segment.shape.latent.frames))
    sigmas = sampling.schedule()
    progress = RunProgress(sampling.patcher, len(plan), len(sigmas) - 1, slices)

    def encode(pixels: Tensor, segment: Segment) -> Tensor:
        del segment
        return host_vae.encode(vae, pixels)

    def sample(image_latents: Tensor, segment: Segment) -> Tensor:
        read = heard(identity, socket, segment, image_latents)
        return sampling.sample(read, sigmas, noise, seed, segment.index, progress.sampler(segment.index))

    def decode(latents: Tensor) -> Iterator[Tensor]:
        return host_vae.decode(vae, latents, progress.slice_done)

    for segment, pixels in render(
        identity.canvas.pixels,
        plan,
        encode=encode,
        sample=sample,
        decode=decode,
        noise=noise,
        motion_drop=motion_drop,
    ):
        progress.segment_done(segment.index)
        yield identity.canvas.uncrop(pixels)


def _gathered(frames: Iterator[Tensor], images: Tensor) -> Tensor:
    """Frames put into one IMAGE [count, h, w, 3]."""
    filled = 0
    for pixels in frames:
        images[filled : filled + len(pixels)] = pixels.permute(0, 2, 3, 1)
        filled += len(pixels)
    return images
