"""What every run does: a portrait and a recording in, finished frames out, segment by segment.

``render`` is the only loop. A ``Renderer`` runs the networks of one segment: ``LocalRenderer`` here,
ComfyUI's in ``nodes/extrapolate.py``. A ``SegmentStore`` keeps finished segments: ``MemoryStore`` here, a job
on disk in ``jobs/video_job.py``. ``animate`` puts the parts together; the command and the node Hallo3
Talking Video do the same with their own renderer and store. Two motion frames are all that passes from one
segment to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .face.registry import analyze_portrait
from .geometry import latent_frames
from .identity import Identity, Portrait, build_identity, frame_portrait
from .media.audio import Recording, to_mono
from .media.canvas import drop_pixels, fade_in
from .media.image import check_picture
from .model.guidance import predict_branches
from .model.transformer import RunConditions, SegmentConditions
from .models import Models
from .noise import Noise, Purpose, make_noise
from .progress import no_progress
from .residency import CPU, attempts, copy_to_device, memory_stage, try_again
from .sampling.samplers import SAMPLERS, Guidance, guided_denoiser
from .sampling.schedule import Schedule, make_schedule
from .sampling.step_cache import CacheReport
from .segments import Segment, SegmentPlan, plan_segments
from .settings import Settings, make_step_cache
from .speech.encoder import compute_features
from .speech.features import Speech, warn_of_windows
from .speech.preprocess import ORIGINAL_PREPROCESSING, SpeechPreprocessing
from .speech.wav2vec2 import split_wav2vec2

if TYPE_CHECKING:
    from .face.selection import FaceChoice
    from .script import Script
    from .speech.dialogue import Dialogue, Turn

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Frames(NamedTuple):
    """The frames that one segment adds to the video: ``pixels`` [F, 3, H, W] in 0..1."""

    segment: Segment
    pixels: Tensor


class Rendered(NamedTuple):
    """One segment on the whole canvas: its new frames ``pixels`` [F, 3, H, W] in 0..1, and the ``motion``
    frames [1, 3, m, H, W] in -1..1 that the next segment continues from."""

    pixels: Tensor
    motion: Tensor


class Renderer(Protocol):
    """The networks of one segment, wherever they run."""

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        """Portrait and motion frames [1, 3, F, H, W] in -1..1 -> image latents [1, C, T, h, w]."""
        ...

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        """Image latents -> the segment's latents [1, C, T, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents -> slices of frames [1, 3, F, H, W] around -1..1."""
        ...


class SegmentStore(Protocol[R_co]):
    """Finished segments, as results of any type."""

    def load(self, segment: Segment) -> R_co | None:
        """The finished segment; None if it must be rendered."""
        ...

    def motion_before(self, segment: Segment) -> Tensor | None:
        """Motion frames [1, 3, m, H, W] of the segment before; None for the first of a video."""
        ...

    def noise(self, segment: Segment) -> Noise:
        """The noise of a segment; called right before it is rendered."""
        ...

    def save(self, segment: Segment, rendered: Rendered) -> R_co: ...


SAMPLING = "sampling"
WatchStage = Callable[[Segment, str], object]
"""Called when a segment's encoding, sampling, decoding or saving starts, and for decoded frames."""


def render(
    canvas: Tensor,
    plan: SegmentPlan,
    renderer: Renderer,
    store: SegmentStore[R],
    *,
    motion_drop: float,
    stage: WatchStage = no_progress,
) -> Iterator[R]:
    """Yield every segment in order, rendering those that the store lacks.

    ``canvas`` is the portrait [1, 3, 1, H, W] in -1..1, ``motion_drop`` the share of motion-frame pixels that
    are hidden from the model.
    """
    motion: Tensor | None = None
    for segment in plan:
        result = store.load(segment)
        if result is None:
            before = store.motion_before(segment) if motion is None else motion
            motion = first_motion(canvas, plan) if before is None or segment.afresh else before
            noise = store.noise(segment)
            pixels = conditioning_pixels(canvas, motion, segment, noise, motion_drop)
            frames = _render_segment(pixels, segment, renderer, noise, stage)
            stage(segment, "saving")
            last = slice(segment.keep.stop - motion.shape[2], segment.keep.stop)
            shown = frames[0, :, segment.keep].transpose(0, 1)
            if before is not None and segment.afresh:
                shown = fade_in(shown, (before[0, :, -1] + 1) / 2, plan.fade)
            rendered = Rendered(shown, frames[:, :, last] * 2 - 1)
            result = store.save(segment, rendered)
            motion = rendered.motion
        else:
            motion = None  # the store has it, and is asked only if the next segment needs it
        yield result


def _render_segment(
    pixels: Tensor, segment: Segment, renderer: Renderer, noise: Noise, stage: WatchStage
) -> Tensor:
    """Frames [1, 3, F, H, W] in 0..1. A stage in which memory runs out is tried again."""
    latents = frames = pixels
    for attempt in attempts(renderer, "encode"):
        with attempt:
            stage(segment, "encoding")
            latents = renderer.encode(pixels, segment, noise)
    for attempt in attempts(renderer, "sample"):
        with attempt:
            stage(segment, SAMPLING)
            latents = renderer.sample(latents, segment, noise)
    for attempt in attempts(renderer, "decode"):
        with attempt:
            slices = watch_frames(renderer.decode(latents), segment, stage)
            frames = collect_frames(slices, segment.keep.stop)
    return frames


class MemoryStore:
    """Keeps nothing: every segment is rendered and handed on."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise

    def load(self, segment: Segment) -> None:
        del segment

    def motion_before(self, segment: Segment) -> None:
        del segment

    def noise(self, segment: Segment) -> Noise:
        del segment
        return self._noise

    def save(self, segment: Segment, rendered: Rendered) -> Frames:
        return Frames(segment, rendered.pixels)


class RenderProgress(NamedTuple):
    """Finished ``step``s of a segment; what the step cache did in it, if there is one."""

    segment: int
    segments: int
    step: int
    steps: int
    cache: CacheReport | None = None


WatchProgress = Callable[[RenderProgress], None]


@torch.inference_mode()
def animate(
    portrait: Tensor,
    recording: Recording | Sequence[Recording | None],
    prompt: str,
    models: Models,
    settings: Settings,
    *,
    noise: Noise | None = None,
    watch: WatchProgress = no_progress,
    listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING,
    turns: Sequence[Turn] = (),
    faces: Sequence[FaceChoice] = (),
    script: Script | None = None,
) -> Iterator[Frames]:
    """Yield a talking portrait segment by segment, without the bars that fitting to the canvas added.

    ``portrait`` is [3, h, w] in 0..1. Several speakers have a ``recording`` each, None for silence, in the
    order of their faces from left to right, or of ``faces`` if given; or one recording and ``turns``, from
    :func:`hallo3.speech.dialogue.read_turns`, with the faces' numbers. An empty prompt is zero text and loads
    no T5; ``script`` has others by time. ``noise`` defaults to the settings' seed. Where memory runs out,
    ``models`` take less. Raises the errors of :mod:`hallo3.errors`.
    """
    noise = noise or make_noise(settings.seed)
    picture, config = check_picture(portrait), models.config.face
    if isinstance(recording, Recording) and not turns:
        face = analyze_portrait(picture, models.face, config)
        speech = try_again(lambda: encode_speech(recording, models, listening), models)
    else:
        from .face.people import analyze_speakers
        from .speech.dialogue import assign_voices

        speech, numbers = assign_voices(
            recording, turns, lambda one: try_again(lambda: encode_speech(one, models, listening), models)
        )
        face = analyze_speakers(picture, models.face, config, numbers, faces)
    prompts = [prompt] * len(speech.plan) if script is None else script.prompts(speech.plan, prompt)
    prompt_embeds = try_again(lambda: encode_prompts(prompts, models), models)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = try_again(lambda: extract_identity(framed, models, settings, noise), models)
    yield from render_identity(identity, speech, prompt_embeds, models, settings, noise, watch)


def render_identity(
    identity: Identity,
    speech: Speech | Dialogue,
    prompt_embeds: Tensor | Sequence[Tensor],
    models: Models,
    settings: Settings,
    noise: Noise,
    watch: WatchProgress = no_progress,
) -> Iterator[Frames]:
    """What ``animate`` does once its inputs are encoded, the prompt of all segments or of each; call it in
    inference mode."""
    inputs = identity, speech, prompt_embeds, models, settings, watch
    renderer = try_again(lambda: LocalRenderer.prepare(*inputs), models)
    canvas, store = identity.canvas, MemoryStore(noise)
    for frames in render(canvas.pixels, speech.plan, renderer, store, motion_drop=settings.motion_drop):
        yield Frames(frames.segment, canvas.uncrop(frames.pixels))


def extract_identity(
    portrait: Portrait, models: Models, settings: Settings, noise: Noise, *, keep_photograph: bool = False
) -> Identity:
    """The identity of a portrait, by the VAE and the reference network; see ``build_identity``."""

    def encode(pixels: Tensor) -> Tensor:
        with memory_stage("portrait"):
            return _encode_pixels(pixels, Purpose.IDENTITY_POSTERIOR, 0, models, settings, noise)

    def features(latents: Tensor) -> tuple[Tensor, ...]:
        with memory_stage("reference"), models.reference as network:
            return tuple(each.to(CPU) for each in network.features(latents))

    space = models.config.face.space
    return build_identity(portrait, space, encode=encode, features=features, keep_photograph=keep_photograph)


def encode_speech(
    recording: Recording, models: Models, listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING
) -> Speech:
    """The recording's features, to be read segment by segment. Raises ``AudioError``."""
    config = models.config
    waveform, _, _ = listening.apply(to_mono(recording, config.segment.sample_rate), config.segment)
    plan = plan_segments(len(waveform), config.segment)
    windows = listening.windows(plan)
    warn_of_windows(windows, plan)
    with memory_stage("speech"), models.speech as wav2vec2:
        device = next(wav2vec2.parameters()).device
        read = compute_features(split_wav2vec2(wav2vec2), waveform, plan, device, windows=windows)
    return Speech(read, plan, config.audio.window)


def encode_prompt(prompt: str, models: Models) -> Tensor:
    """The prompt's T5 embedding [1, M, text_dim]; zeros for an empty prompt."""
    return encode_prompts([prompt], models)[0]


def encode_prompts(prompts: Sequence[str], models: Models) -> list[Tensor]:
    """As :func:`encode_prompt`; each different prompt is encoded once, by a T5 that is loaded once."""
    trunk = models.config.trunk
    texts = {prompt: prompt.strip() for prompt in prompts}
    found = {"": torch.zeros(1, trunk.text_tokens, trunk.text_dim)}
    if wanted := dict.fromkeys(prompt for prompt, text in texts.items() if text):
        with memory_stage("prompt"), models.text as encoder:
            found |= {prompt: encoder.encode(prompt, trunk.text_tokens) for prompt in wanted}
    return [found[prompt if texts[prompt] else ""] for prompt in prompts]


def first_motion(canvas: Tensor, plan: SegmentPlan) -> Tensor:
    """The motion frames [1, 3, m, H, W] of the first segment: the portrait, standing still (facts 9)."""
    return canvas.expand(-1, -1, plan.config.motion_frames, -1, -1)


def conditioning_pixels(
    canvas: Tensor, motion: Tensor, segment: Segment, noise: Noise, motion_drop: float
) -> Tensor:
    """Input of the VAE: portrait, then motion frames with pixels dropped, [1, 3, F, H, W] in -1..1."""
    draw = noise(Purpose.MOTION_MASK, segment.index, 0, tuple(canvas.shape[-2:]))
    return torch.cat((canvas, drop_pixels(motion, draw, motion_drop)), dim=2)


def watch_frames(slices: Iterator[Tensor], segment: Segment, stage: WatchStage) -> Iterator[Tensor]:
    done = 0
    stage(segment, "decoding")
    for frames in slices:
        yield frames
        done += frames.shape[2]
        stage(segment, f"decoding, {done}/{segment.keep.stop} frames")


def collect_frames(slices: Iterator[Tensor], count: int) -> Tensor:
    """Decoded slices -> frames [1, 3, F, H, W] in 0..1 on the CPU, F at least ``count``: a last segment is
    not decoded beyond what it keeps."""
    parts: list[Tensor] = []
    total = 0
    for frames in slices:
        parts.append(((frames.float().cpu() + 1) / 2).clamp(0, 1))
        total += frames.shape[2]
        if total >= count:
            break
    return torch.cat(parts, dim=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRenderer:
    """The package's own networks, with everything that is constant for a run computed once. ``texts``
    has each segment's text tokens, of several prompts on the CPU."""

    models: Models
    settings: Settings
    watch: WatchProgress
    speech: Speech | Dialogue
    texts: Sequence[Tensor]
    schedule: Schedule
    run: RunConditions

    @classmethod
    def prepare(
        cls,
        identity: Identity,
        speech: Speech | Dialogue,
        prompt_embeds: Tensor | Sequence[Tensor],
        models: Models,
        settings: Settings,
        watch: WatchProgress = no_progress,
    ) -> LocalRenderer:
        """Project text (of all segments, or each one's), reference features and face; modulate every step."""
        schedule, masks, embedding = make_schedule(settings.steps), None, identity.face_embedding
        prompts = [prompt_embeds] * len(speech.plan) if isinstance(prompt_embeds, Tensor) else prompt_embeds
        distinct = {id(each): each for each in prompts}
        if identity.people:
            from .speakers import make_speaker_masks

            masks = make_speaker_masks(identity.people, models.config.segment.shape.latent)[None]
            embedding = embedding[None]
        with memory_stage("prepare"), models.transformer as dit:
            like, features = next(dit.parameters()), identity.reference_features
            if settings.on_access:  # projected again and again, so on the device
                features = tuple(each.to(like) for each in features)
            home = CPU if len(distinct) > 1 else like.device
            texts = {key: dit.encode_text(each.to(like)).to(home) for key, each in distinct.items()}
            run = dit.prepare(
                features,
                embedding,
                schedule.timesteps,
                masks=masks,
                on_access=settings.on_access,
                steps_on_access=settings.steps_on_access,
                open_progress=models.open_progress,
            )
        return cls(
            models=models,
            settings=settings,
            watch=watch,
            speech=speech,
            texts=[texts[id(each)] for each in prompts],
            schedule=schedule,
            run=run,
        )

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        purpose = Purpose.MOTION_POSTERIOR
        return _encode_pixels(pixels, purpose, segment.index, self.models, self.settings, noise)

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        config, settings, index = self.models.config, self.settings, segment.index
        shape = (1, config.trunk.latent_channels, *config.segment.shape.latent)

        def draw(purpose: Purpose, step: int) -> Tensor:
            return copy_to_device(noise(purpose, index, step, shape), image_latents.device)

        def report(step: int) -> None:
            done = cache.report if cache else None
            self.watch(RenderProgress(index, len(self.speech.plan), step, settings.steps, done))

        with self.models.transformer as dit:
            with memory_stage("listen"):
                like = next(dit.parameters())
                text, windows = self.texts[index].to(like), self.speech.segment(index).to(like)
                audio = dit.encode_audio(windows, masks=self.run.masks, on_access=settings.on_access)
            image_latents = F.pad(image_latents, (0, 0, 0, 0, 0, shape[2] - image_latents.shape[2]))
            conditions = SegmentConditions(text=text, audio=audio, image_latents=image_latents)
            guidance = self._guidance(index, text)
            branches, passes = [each.branches for each in guidance], self.models.passes() or settings.passes
            predict = predict_branches(dit, self.run, conditions, branches, passes)
            denoise = guided_denoiser(predict, [each.strengths for each in guidance])
            cache = make_step_cache(settings, denoise, guidance)
            sampler, start = SAMPLERS[settings.sampler], draw(Purpose.START, 0)
            return sampler(cache or denoise, start, self.schedule, lambda i: draw(Purpose.STEP, i), report)

    def _guidance(self, index: int, text: Tensor) -> list[Guidance]:
        if self.settings.strengths is None:
            return self.settings.guidance()
        plan = self.speech.plan
        start, is_given = plan.first(index) / plan.config.fps, not torch.equal(text[:1], text[1:])
        return self.settings.guidance(start, text=is_given)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        with self.models.vae as vae:
            yield from vae.decode(latents)

    def shrink(self, error: Exception, stage: str) -> bool:
        return not self.settings.on_access and self.models.shrink(error, stage)  # else ``run`` has a network


def _encode_pixels(
    pixels: Tensor, purpose: Purpose, segment: int, models: Models, settings: Settings, noise: Noise
) -> Tensor:
    """Frames [1, 3, F, H, W] in -1..1 -> scaled latents [1, C, T, h, w]; posterior "sample" draws noise."""
    config = models.config
    grid = config.segment.shape.latent._replace(frames=latent_frames(pixels.shape[2]))
    draw = None
    if settings.posterior == "sample":
        draw = noise(purpose, segment, 0, (1, config.vae.latent_channels, *grid))
    with models.vae as vae:
        return vae.encode(pixels, draw)
