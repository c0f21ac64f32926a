"""The story, top to bottom: a portrait and a recording in, finished frames out, segment by segment.

``animate`` extracts what is constant; ``render`` is the loop and knows three callables, so that another
host's machinery can stand behind it. Two motion frames are all that passes from segment to segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .face.analyzer import analyze_portrait
from .geometry import latent_frames
from .identity import Identity, Portrait, build_identity, frame_portrait
from .media.audio import Recording, to_mono
from .media.canvas import drop_pixels
from .media.image import check_picture
from .model.conditions import RunConditions, SegmentConditions
from .model.guidance import GUIDANCE_PASSES, Predict, single_branch
from .model.transformer import Hallo3Transformer
from .models import Models
from .noise import Noise, Purpose, make_noise
from .residency import CPU, PinnedAllocator
from .sampling.samplers import Denoise, get_sampler, guided_denoiser, limit_guidance
from .sampling.schedule import Schedule, make_schedule
from .sampling.step_cache import CacheReport, Reuse, StepCache, extrapolate
from .segments import Segment, SegmentPlan, plan_segments
from .settings import Settings
from .speech.chunked import encode_aside
from .speech.features import Speech, in_memory, tell
from .speech.preprocess import ORIGINAL_PREPROCESSING, SpeechPreprocessing
from .speech.wav2vec2 import Wav2Vec2, encode_waveform, split_wav2vec2


def encode_pixels(
    pixels: Tensor, purpose: Purpose, segment: int, models: Models, settings: Settings, noise: Noise
) -> Tensor:
    """Frames [1, 3, F, H, W] in -1..1 -> scaled latents [1, C, T, h, w]; only "sample" draws noise."""
    config = models.config
    grid = config.segment.shape.latent._replace(frames=latent_frames(pixels.shape[2]))
    draw = None
    if settings.posterior == "sample":
        draw = noise(purpose, segment, 0, (1, config.vae.latent_channels, *grid))
    with models.vae as vae:
        return vae.encode(pixels, draw)


def decode_frames(latents: Tensor, models: Models) -> Iterator[Tensor]:
    """Scaled latents [1, C, T, h, w] -> slices of frames [1, 3, F, H, W] around -1..1."""
    with models.vae as vae:
        yield from vae.decode(latents)


def collect(slices: Iterator[Tensor], wanted: int) -> Tensor:
    """Slices as frames [1, 3, F, H, W] in 0..1 on the CPU, F at least ``wanted``: a last segment need
    not be decoded beyond what it keeps."""
    parts: list[Tensor] = []
    found = 0
    for frames in slices:
        parts.append(((frames.float().cpu() + 1) / 2).clamp(0, 1))
        found += frames.shape[2]
        if found >= wanted:
            break
    return torch.cat(parts, dim=2)


class RenderProgress(NamedTuple):
    """Where a run stands: finished steps of a segment, out of all of both; what the step cache has done in
    this segment, None without one."""

    segment: int
    segments: int
    step: int
    steps: int
    cache: CacheReport | None = None


Watch = Callable[[RenderProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What :func:`prepare` makes: everything a segment needs besides its motion frames."""

    models: Models
    settings: Settings
    noise: Noise
    watch: Watch
    speech: Speech
    schedule: Schedule
    run: RunConditions

    def encode(self, pixels: Tensor, segment: Segment) -> Tensor:
        """Portrait and motion frames [1, 3, F, H, W] in -1..1 -> image latents [1, C, 1, h, w]."""
        return encode_pixels(
            pixels, Purpose.MOTION_POSTERIOR, segment.index, self.models, self.settings, self.noise
        )

    def sample(self, image_latents: Tensor, segment: Segment) -> Tensor:
        """Image latents -> the segment's latents [1, C, T, h, w]."""
        config, index = self.models.config, segment.index
        shape = (1, config.trunk.latent_channels, *config.segment.shape.latent)
        rest = shape[2] - image_latents.shape[2]

        def draw(purpose: Purpose, step: int) -> Tensor:
            return copy_to_device(self.noise(purpose, index, step, shape), image_latents.device)

        def report(step: int) -> None:
            done = cache.report if cache else None
            self.watch(RenderProgress(index, len(self.speech.plan), step, self.settings.steps, done))

        with self.models.transformer as dit:
            windows = self.speech.segment(index).to(self.run.text)
            heard = SegmentConditions(
                audio=dit.hear(windows, on_access=self.settings.on_access),
                image_latents=F.pad(image_latents, (0, 0, 0, 0, 0, rest)),
            )
            denoise = guided_denoiser(self._predict(dit, heard), self.settings.guidance_scale)
            cache = step_cache(self.settings, denoise)
            sample = get_sampler(self.settings.sampler)
            start = draw(Purpose.START, 0)
            return sample(cache or denoise, start, self.schedule, lambda i: draw(Purpose.STEP, i), report)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents -> slices of frames [1, 3, F, H, W] around -1..1."""
        return decode_frames(latents, self.models)

    def _predict(self, dit: Hallo3Transformer, heard: SegmentConditions) -> Predict:
        guided, alone = self.settings.guided, single_branch(dit, self.run, heard)
        if not guided:
            return alone
        both = GUIDANCE_PASSES[self.settings.passes](dit, self.run, heard)
        if len(guided) == self.settings.steps:
            return both
        return limit_guidance(guided, both, alone)


def step_cache(settings: Settings, denoise: Denoise, reuse: Reuse = extrapolate) -> StepCache | None:
    """A segment's own, if there is to be one. Steps where guidance sets in, or ends, are computed."""
    if not settings.step_cache:
        return None
    return StepCache(
        denoise,
        settings.steps,
        settings.step_cache,
        settings.step_cache_bound,
        at_least=(settings.guided.start, settings.guided.stop),
        reuse=reuse,
    )


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device. A GPU fetches it when its turn comes; nothing waits for that."""
    if device.type == "cuda":
        return PinnedAllocator().copied(tensor).to(device, non_blocking=True)
    return tensor.to(device)


def prepare(
    identity: Identity,
    speech: Speech,
    prompt_embeds: Tensor,
    models: Models,
    settings: Settings,
    noise: Noise,
    watch: Watch,
) -> Stages:
    """The stages of a run, with all that is constant for it computed once."""
    steps = make_schedule(settings.steps)
    with models.transformer as dit:
        prompt_embeds = prompt_embeds.to(next(dit.parameters()))
        features = identity.reference_features
        if settings.on_access:  # they are read again and again, where they are projected
            features = tuple(each.to(prompt_embeds) for each in features)
        run = dit.prepare(
            features,
            identity.face_embedding,
            prompt_embeds,
            steps.timesteps,
            on_access=settings.on_access,
            steps_on_access=settings.steps_on_access,
        )
    return Stages(
        models=models,
        settings=settings,
        noise=noise,
        watch=watch,
        speech=speech,
        schedule=steps,
        run=run,
    )


class Frames(NamedTuple):
    """What one segment adds to the video: ``pixels`` [F, 3, H, W] in 0..1."""

    segment: Segment
    pixels: Tensor


class Rendered(NamedTuple):
    """One segment: its new frames ``pixels`` [F, 3, H, W] in 0..1 on the whole canvas, and the ``motion``
    frames [1, 3, m, H, W] in -1..1 that the next one goes on from."""

    pixels: Tensor
    motion: Tensor


def unwatched(progress: RenderProgress) -> None:
    """Nobody looks."""
    del progress


@torch.inference_mode()
def animate(
    portrait: Tensor,
    recording: Recording,
    prompt: str,
    models: Models,
    settings: Settings,
    *,
    noise: Noise | None = None,
    watch: Watch = unwatched,
    listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING,
) -> Iterator[Frames]:
    """Yield a talking portrait, segment by segment, without the bars that fitting added.

    ``portrait`` [3, h, w] in 0..1. An empty prompt is zero text, and T5 is not loaded for it. ``noise``
    defaults to the settings' seed. Raises the errors of :mod:`hallo3.errors`.
    """
    noise = noise or make_noise(settings.seed)
    face = analyze_portrait(check_picture(portrait), models.face, models.config.face)
    speech = encode_speech(recording, models, listening)
    prompt_embeds = encode_prompt(prompt, models)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = extract_identity(framed, models, settings, noise)
    yield from perform(identity, speech, prompt_embeds, models, settings, noise, watch)


def perform(
    identity: Identity,
    speech: Speech,
    prompt_embeds: Tensor,
    models: Models,
    settings: Settings,
    noise: Noise,
    watch: Watch = unwatched,
) -> Iterator[Frames]:
    """What :func:`animate` does once portrait, recording and prompt have been read; without gradients only
    inside an inference mode of the caller's."""
    stages = prepare(identity, speech, prompt_embeds, models, settings, noise, watch)
    for segment, pixels in render(
        identity.canvas.pixels,
        speech.plan,
        encode=stages.encode,
        sample=stages.sample,
        decode=stages.decode,
        noise=noise,
        motion_drop=settings.motion_drop,
    ):
        yield Frames(segment, identity.canvas.uncrop(pixels))


def render(
    canvas: Tensor,
    plan: SegmentPlan,
    *,
    encode: Callable[[Tensor, Segment], Tensor],
    sample: Callable[[Tensor, Segment], Tensor],
    decode: Callable[[Tensor], Iterator[Tensor]],
    noise: Noise,
    motion_drop: float,
) -> Iterator[Frames]:
    """Each segment's new frames on the whole canvas, as soon as they are finished.

    ``canvas`` is [1, 3, 1, H, W] in -1..1. ``encode`` makes image latents of portrait and motion frames,
    ``sample`` latents of these, ``decode`` slices of frames around -1..1 of those.
    """
    motion = first_motion(canvas, plan)
    for segment in plan:
        pixels, motion = render_segment(
            canvas,
            motion,
            segment,
            encode=encode,
            sample=sample,
            decode=decode,
            noise=noise,
            motion_drop=motion_drop,
        )
        yield Frames(segment, pixels)


def render_segment(
    canvas: Tensor,
    motion: Tensor,
    segment: Segment,
    *,
    encode: Callable[[Tensor, Segment], Tensor],
    sample: Callable[[Tensor, Segment], Tensor],
    decode: Callable[[Tensor], Iterator[Tensor]],
    noise: Noise,
    motion_drop: float,
) -> Rendered:
    """One segment, which goes on from ``motion``; see :func:`render`."""
    shown = conditioning_pixels(canvas, motion, segment, noise, motion_drop)
    frames = collect(decode(sample(encode(shown, segment), segment)), segment.keep.stop)
    last = slice(segment.keep.stop - motion.shape[2], segment.keep.stop)
    return Rendered(frames[0, :, segment.keep].transpose(0, 1), frames[:, :, last] * 2 - 1)


def first_motion(canvas: Tensor, plan: SegmentPlan) -> Tensor:
    """The motion frames [1, 3, m, H, W] of the first segment: the portrait, standing still (facts 9)."""
    return canvas.expand(-1, -1, plan.config.motion_frames, -1, -1)


def conditioning_pixels(
    canvas: Tensor, motion: Tensor, segment: Segment, noise: Noise, motion_drop: float
) -> Tensor:
    """What the VAE encodes for a segment: portrait, then motion frames with pixels dropped, [1, 3, F, H, W]
    in -1..1."""
    draw = noise(Purpose.MOTION_MASK, segment.index, 0, tuple(canvas.shape[-2:]))
    return torch.cat((canvas, drop_pixels(motion, draw, motion_drop)), dim=2)


def extract_identity(portrait: Portrait, models: Models, settings: Settings, noise: Noise) -> Identity:
    """The identity of a portrait, by a run's own networks."""

    def encode(pixels: Tensor) -> Tensor:
        return encode_pixels(pixels, Purpose.IDENTITY_POSTERIOR, 0, models, settings, noise)

    def features(latents: Tensor) -> tuple[Tensor, ...]:
        with models.reference as network:
            return tuple(each.to(CPU) for each in network.features(latents))

    return build_identity(portrait, models.config.face.space, encode=encode, features=features)


def encode_speech(
    recording: Recording, models: Models, listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING
) -> Speech:
    """The recording's features, to be asked segment by segment. Raises ``AudioError``."""
    config = models.config
    waveform = listening.hear(to_mono(recording, config.segment.sample_rate), config.segment)
    plan = plan_segments(len(waveform), config.segment)
    windows = listening.windows(plan)
    tell(windows, plan)
    with models.speech as wav2vec2:
        device = next(wav2vec2.parameters()).device
        if windows is None:
            read = in_memory(encode_waveform(cast(Wav2Vec2, wav2vec2), waveform, plan, device))
        else:
            read = encode_aside(split_wav2vec2(wav2vec2), waveform, plan, device, windows=windows)
    return Speech(read, plan, config.audio.window)


def encode_prompt(prompt: str, models: Models) -> Tensor:
    """The prompt's embedding [1, M, text_dim]; zeros for an empty one."""
    trunk = models.config.trunk
    if not prompt.strip():
        return torch.zeros(1, trunk.text_tokens, trunk.text_dim)
    with models.text as encoder:
        return encoder.encode(prompt, trunk.text_tokens)
