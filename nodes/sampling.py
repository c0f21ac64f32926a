"""Nodes that sample and decode one segment, with the original's sampler or ComfyUI's."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..hallo3.config import HALLO3
from ..hallo3.errors import InputError, ShapeError
from ..hallo3.geometry import LatentShape
from ..hallo3.identity import Identity
from ..hallo3.noise import Noise, make_noise
from ..hallo3.pipeline import collect_frames, conditioning_pixels, first_motion
from ..hallo3.residency import try_again
from ..hallo3.sampling.samplers import SAMPLERS
from ..hallo3.sampling.strengths import parse_strengths
from ..hallo3.segments import Segment
from ..hallo3.settings import CACHE_BOUND
from .comfy import vae as comfy_vae
from .comfy.guider import StrengthGuider
from .comfy.memory import SecondTry
from .comfy.model import SegmentInput, branches, config_of
from .comfy.progress import RunProgress, check_memory, show_text
from .comfy.sampling import Sampling, original_sampler, original_sigmas
from .comfy.speech import SpeechSocket
from .convert import check_fit, check_socket, get_segment, to_images, to_motion
from .schema import (
    FREE_MEMORY,
    KEEP,
    Hallo3Node,
    IdentityType,
    make_schema,
    render_inputs,
    steps_and_guidance,
    steps_input,
)


class Hallo3VAEDecode(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3VAEDecode",
            search_aliases=["hallo3", "decode video", "3d vae"],
            inputs=[
                io.Latent.Input("samples"),
                io.Vae.Input("vae"),
                IdentityType.Input("identity", optional=True),
            ],
            outputs=[io.Image.Output("images"), io.Image.Output("motion_frames")],
        )

    @classmethod
    def execute(cls, samples: Any, vae: Any, identity: Identity | None = None) -> io.NodeOutput:
        latents = _get_latents(samples, identity, vae)
        video, (first, last, _) = LatentShape(*latents.shape[2:]).video, _get_kept(samples)
        total = video.frames
        check_memory(4 * 3 * total * video.height * video.width, f"{total} frames", "decode fewer at a time")
        second_try = SecondTry(vae.device)

        def decode() -> Tensor:
            return collect_frames(comfy_vae.decode(vae, latents, share=second_try.share), total)

        frames = try_again(decode, second_try, "decode")[0].transpose(0, 1)
        new = frames[first:last] if identity is None else identity.canvas.uncrop(frames[first:last])
        return io.NodeOutput(to_images(new), to_images(frames[-(first or HALLO3.segment.motion_frames) :]))


def _get_kept(samples: dict[str, Any]) -> tuple[int, int, int]:
    """First new frame, end of the new ones and number of latent frames: all, or as the sampler wrote them."""
    latent = LatentShape(*samples["samples"].shape[2:])
    kept = samples.get(KEEP, (0, latent.video.frames, latent.frames))
    whole = isinstance(kept, tuple | list) and [type(each) for each in kept] == [int] * 3
    return tuple(kept) if whole and 0 <= kept[0] < kept[1] <= latent.video.frames else (0, 0, 0)


def _get_latents(samples: Any, identity: Identity | None, vae: Any) -> Tensor:
    """Latents of one segment that fit identity and VAE. Raises ``ShapeError`` or ``InputError``."""
    latents: Any = samples.get("samples") if isinstance(samples, dict) else None
    single = isinstance(latents, Tensor) and latents.ndim == 5 and len(latents) == 1 and latents.numel()
    if not single or not latents.is_floating_point():
        raise ShapeError(
            "These latents are not a single segment.",
            found=str(list(latents.shape)) if isinstance(latents, Tensor) else "no latents",
            expected="[1, channels, frames, height, width]",
            fix=(
                "connect the LATENT of Hallo3 Sampler or a sampler; select one of a batch with Latent From "
                "Batch"
            ),
        )
    sampled = _get_kept(samples)[2]
    if sampled != latents.shape[2]:
        raise ShapeError(
            "These latents have been cut or joined.",
            found=f"{latents.shape[2]} latent frames",
            expected=f"the {sampled} of the segment they come from",
            fix="decode each segment separately and join the images",
        )
    if not bool(latents.isfinite().all()):
        raise InputError(
            "These latents contain NaN values.",
            found="NaN or infinity",
            expected="finite latents",
            fix="sample again with other settings",
        )
    if identity is not None:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        size = LatentShape(*latents.shape[2:]).video
        canvas = tuple(identity.canvas.pixels.shape[-2:])
        if (size.height, size.width) != canvas:
            raise ShapeError(
                "The identity does not belong to these latents.",
                found=f"an identity on a canvas of {canvas[1]} x {canvas[0]} px",
                expected=f"{size.width} x {size.height} px",
                fix="connect the identity used for sampling",
            )
    comfy_vae.check_vae(vae)
    if latents.shape[1] != vae.latent_channels:
        raise ShapeError(
            "These latents do not match the VAE.",
            found=f"{latents.shape[1]} channels",
            expected=f"{vae.latent_channels} channels",
            fix="connect latents sampled with a Hallo3 model",
        )
    return latents


CATEGORY = "Hallo3/sampling"


class Hallo3OriginalSampler(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        share: Any = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True, "advanced": True}
        return make_schema(
            node_id="Hallo3OriginalSampler",
            category=CATEGORY,
            search_aliases=["hallo3", "dpmpp_2m_sde", "ddim", "sampler select"],
            inputs=[
                io.Combo.Input("sampler_name", options=list(SAMPLERS), default="dpmpp_2m_sde"),
                io.Float.Input("step_cache", default=0.0, **share),
                io.Float.Input("step_cache_bound", default=CACHE_BOUND, **share),
            ],
            outputs=[io.Sampler.Output("sampler")],
        )

    @classmethod
    def execute(
        cls, sampler_name: str, step_cache: float = 0.0, step_cache_bound: float = CACHE_BOUND
    ) -> io.NodeOutput:
        return io.NodeOutput(original_sampler(sampler_name, step_cache, step_cache_bound))


class Hallo3OriginalSchedule(Hallo3Node):
    MEMORY_ADVICE = f"choose fewer steps, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3OriginalSchedule",
            category=CATEGORY,
            search_aliases=["hallo3", "sigmas", "scheduler", "zero snr"],
            inputs=[io.Model.Input("model"), steps_input()],
            outputs=[io.Sigmas.Output("sigmas")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int) -> io.NodeOutput:
        return io.NodeOutput(original_sigmas(model, steps or config_of(model).defaults.steps))


class Hallo3Guider(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        _, guidance_scale = steps_and_guidance()
        return make_schema(
            node_id="Hallo3Guider",
            category=CATEGORY,
            search_aliases=["hallo3", "cfg", "dual cfg", "audio strength", "guidance"],
            inputs=[
                io.Model.Input("model"),
                guidance_scale,
                io.String.Input("text_strength", default=""),
                io.String.Input("voice_strength", default=""),
                io.Conditioning.Input("positive", optional=True),
            ],
            outputs=[io.Guider.Output("guider")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        guidance_scale: float,
        text_strength: str,
        voice_strength: str,
        positive: Any = None,
    ) -> io.NodeOutput:
        scale = guidance_scale or config_of(model).defaults.guidance_scale
        given = text_strength.strip() or None, voice_strength.strip() or None
        return io.NodeOutput(StrengthGuider(model, parse_strengths(scale, *given, text=True), positive))


def segment_input(
    identity: Identity,
    socket: SpeechSocket,
    segment: Segment,
    vae: Any,
    motion_frames: Any,
    noise: Noise,
    motion_drop: float,
) -> SegmentInput:
    """The model's input for a segment, whose number and time are shown. Raises ``InputError`` for a later one
    without ``motion_frames``."""
    canvas, plan = identity.canvas.pixels, socket.speech.plan
    start, new = plan.first(segment.index), segment.keep.stop - segment.keep.start
    start, end = start / plan.config.fps, (start + new) / plan.config.fps
    show_text(f"segment {segment.index + 1} of {len(plan)}: {start:.2f} s to {end:.2f} s")
    if motion_frames is not None:
        motion = to_motion(motion_frames, canvas, plan.config.motion_frames)
    elif segment.index == 0:
        motion = first_motion(canvas, plan)
    else:
        raise InputError(
            "Segments after the first need motion frames.",
            found=f"segment {segment.index + 1} without motion frames",
            expected=f"the last {plan.config.motion_frames} frames of segment {segment.index}",
            fix="connect motion_frames of that segment's Hallo3 VAE Decode, or use Hallo3 Talking Video",
        )
    pixels = conditioning_pixels(canvas, motion, segment, noise, motion_drop)
    image_latents = try_again(lambda: comfy_vae.encode(vae, pixels), SecondTry(vae.device), "encode")
    return SegmentInput(
        identity=identity,
        windows=socket.windows(segment.index, len(identity.people)),
        image_latents=image_latents,
        frame=plan.first(segment.index),
    )


def _to_latent(latents: Tensor, segment: Segment) -> dict[str, Any]:
    """A segment's LATENT, with the range of its new frames."""
    return {"samples": latents, KEEP: (segment.keep.start, segment.keep.stop, latents.shape[2])}


class Hallo3Sampler(Hallo3Node):
    MEMORY_ADVICE = f"choose a smaller weight_dtype in Load Hallo3 Model, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Sampler",
            search_aliases=["hallo3", "dit sampler", "ksampler", "one segment"],
            inputs=render_inputs(single_segment=True),
            outputs=[io.Latent.Output("latent")],
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
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.patcher)
        planned, noise = get_segment(speech, segment), make_noise(seed)
        read = segment_input(identity, speech, planned, vae, motion_frames, noise, motion_drop)
        sigmas = sampling.schedule()
        progress = RunProgress(sampling.patcher, [0], 1, len(sigmas) - 1, 0)
        sampling.log_attention()
        second_try = SecondTry(sampling.patcher.load_device)

        def sample() -> Tensor:
            report, share = progress.sampler(0), second_try.share
            return sampling.sample(read, sigmas, noise, seed, segment, report, share)

        latents = try_again(sample, second_try, "sample")
        return io.NodeOutput(_to_latent(latents, planned))


class Hallo3SegmentConditioning(Hallo3Node):
    MEMORY_ADVICE = f"choose a smaller weight_dtype in Load Hallo3 Model, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3SegmentConditioning",
            category="Hallo3/sampling",
            search_aliases=["hallo3", "conditioning", "image to video", "ksampler"],
            inputs=render_inputs(single_segment=True, sampled=False),
            outputs=[
                io.Conditioning.Output("positive"),
                io.Conditioning.Output("negative"),
                io.Latent.Output("latent"),
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
        config = config_of(model)
        check_fit(identity, speech, vae, model)
        planned, noise = get_segment(speech, segment), make_noise(seed)
        read = segment_input(identity, speech, planned, vae, motion_frames, noise, motion_drop)
        empty = torch.zeros(1, config.trunk.latent_channels, *config.segment.shape.latent)
        return io.NodeOutput(*branches(positive, read, config), _to_latent(empty, planned))
