"""Sampler and Segment Conditioning: one segment, by the original's sampler or by any of ComfyUI's."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hallo3.identity import Identity
from ..hallo3.noise import seeded_noise
from . import inputs
from .host.conditioning import branches
from .host.model import config_of
from .host.progress import RunProgress
from .host.sampling import Sampling
from .host.speech import SpeechSocket
from .segment import check_numbers, empty_latents, latent_of, segment_input
from .values import check_fit, segment_of


class Hallo3Sampler(io.ComfyNode):
    """One segment to LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Sampler",
            display_name="Hallo3 Sampler",
            category="Hallo3",
            description=(
                "Samples one segment of the video with the diffusion transformer. For a whole speech use "
                "Hallo3 Extrapolate, which does this for every segment."
            ),
            search_aliases=["hallo3", "dit sampler", "ksampler", "talking head"],
            inputs=[
                *inputs.networks(),
                *inputs.who_and_what(),
                inputs.segment(),
                inputs.seed(),
                *inputs.steps_and_guidance(),
                inputs.motion_drop(),
                inputs.positive(),
                inputs.motion_frames(),
                *inputs.sampling_sockets(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The segment's latents, for Hallo3 VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        identity: Identity,
        speech: SpeechSocket,
        segment: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        motion_drop: float,
        positive: Any = None,
        motion_frames: Any = None,
        guider: Any = None,
        sampler: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        check_numbers(seed, motion_drop, steps, guidance_scale)
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.patcher)
        wanted, noise = segment_of(speech, segment), seeded_noise(seed)
        read = segment_input(identity, speech, wanted, vae, motion_frames, noise, motion_drop)
        sigmas = sampling.schedule()
        progress = RunProgress(sampling.patcher, [0], 1, len(sigmas) - 1, 0)
        sampling.tell_attention()
        latents = sampling.sample(read, sigmas, noise, seed, segment, progress.sampler(0))
        return io.NodeOutput(latent_of(latents, wanted))


class Hallo3SegmentConditioning(io.ComfyNode):
    """One segment as conditioning, for samplers of ComfyUI's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3SegmentConditioning",
            display_name="Hallo3 Segment Conditioning",
            category="Hallo3/sampling",
            description=(
                "One segment's identity, speech and motion as conditioning for KSampler and "
                "SamplerCustomAdvanced. Connect positive, negative and latent to the sampler, its result "
                "to Hallo3 VAE Decode. The original's guidance (cfg) is 3.5."
            ),
            search_aliases=["hallo3", "conditioning", "image to video", "ksampler"],
            inputs=[
                *inputs.networks(),
                *inputs.who_and_what(),
                inputs.segment(),
                inputs.seed("Which pixels of the motion frames are hidden; the sampler has its own seed."),
                inputs.motion_drop(),
                inputs.positive(),
                inputs.motion_frames(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Prompt, speech and identity."),
                io.Conditioning.Output("negative", tooltip="The same identity without prompt and speech."),
                io.Latent.Output("latent", tooltip="Empty latents of a segment."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        identity: Identity,
        speech: SpeechSocket,
        segment: int,
        seed: int,
        motion_drop: float,
        positive: Any = None,
        motion_frames: Any = None,
    ) -> io.NodeOutput:
        check_numbers(seed, motion_drop)
        config = config_of(model)
        check_fit(identity, speech, vae, model)
        wanted, noise = segment_of(speech, segment), seeded_noise(seed)
        read = segment_input(identity, speech, wanted, vae, motion_frames, noise, motion_drop)
        empty = empty_latents(config.trunk.latent_channels, config.segment.shape.latent)
        return io.NodeOutput(*branches(positive, read, config), latent_of(empty, wanted))
