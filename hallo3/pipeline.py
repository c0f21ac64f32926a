"""The story, top to bottom: a portrait and a recording in, finished frames out, segment by segment.

``animate`` extracts what is constant; ``render`` is the loop and knows three callables, so that another
host's machinery can stand behind it. Two motion frames are all that passes from segment to segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from .audio.anatomy import anatomy_of
from .audio.aside import encode_aside
from .audio.encoder import Wav2Vec2, encode_waveform
from .audio.speech import Speech, in_memory
from .audio.windowed import tell
from .face.analysis import analyze
from .identity import Identity, Portrait, extract_identity, frame_portrait
from .latents import collect, encode_pixels
from .listening import AS_ORIGINAL, Listening
from .media.canvas import drop_pixels
from .media.picture import check_picture
from .media.sound import Recording, to_mono
from .models import Models
from .noise import Noise, Purpose, seeded_noise
from .residency import HOME
from .segments import Segment, SegmentPlan, plan_segments
from .settings import Settings
from .stages import Progress, Watch, prepare


class Frames(NamedTuple):
    """What one segment adds to the video: ``pixels`` [F, 3, H, W] in 0..1."""

    segment: Segment
    pixels: Tensor


class Rendered(NamedTuple):
    """One segment: its new frames ``pixels`` [F, 3, H, W] in 0..1 on the whole canvas, and the ``motion``
    frames [1, 3, m, H, W] in -1..1 that the next one goes on from."""

    pixels: Tensor
    motion: Tensor


def unwatched(progress: Progress) -> None:
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
    listening: Listening = AS_ORIGINAL,
) -> Iterator[Frames]:
    """Yield a talking portrait, segment by segment, without the bars that fitting added.

    ``portrait`` [3, h, w] in 0..1. An empty prompt is zero text, and T5 is not loaded for it. ``noise``
    defaults to the settings' seed. Raises the errors of :mod:`hallo3.errors`.
    """
    noise = noise or seeded_noise(settings.seed)
    face = analyze(check_picture(portrait), models.face, models.config.face)
    speech = encode_speech(recording, models, listening)
    prompt_embeds = encode_prompt(prompt, models)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = identify(framed, models, settings, noise)
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
    shown = shown_pixels(canvas, motion, segment, noise, motion_drop)
    frames = collect(decode(sample(encode(shown, segment), segment)), segment.keep.stop)
    last = slice(segment.keep.stop - motion.shape[2], segment.keep.stop)
    return Rendered(frames[0, :, segment.keep].transpose(0, 1), frames[:, :, last] * 2 - 1)


def first_motion(canvas: Tensor, plan: SegmentPlan) -> Tensor:
    """The motion frames [1, 3, m, H, W] of the first segment: the portrait, standing still (facts 9)."""
    return canvas.expand(-1, -1, plan.config.motion_frames, -1, -1)


def shown_pixels(
    canvas: Tensor, motion: Tensor, segment: Segment, noise: Noise, motion_drop: float
) -> Tensor:
    """What the VAE encodes for a segment: portrait, then motion frames with pixels dropped, [1, 3, F, H, W]
    in -1..1."""
    draw = noise(Purpose.MOTION_MASK, segment.index, 0, tuple(canvas.shape[-2:]))
    return torch.cat((canvas, drop_pixels(motion, draw, motion_drop)), dim=2)


def identify(portrait: Portrait, models: Models, settings: Settings, noise: Noise) -> Identity:
    """The identity of a portrait, by a run's own networks."""

    def encode(pixels: Tensor) -> Tensor:
        return encode_pixels(pixels, Purpose.IDENTITY_POSTERIOR, 0, models, settings, noise)

    def features(latents: Tensor) -> tuple[Tensor, ...]:
        with models.reference as network:
            return tuple(each.to(HOME) for each in network.features(latents))

    return extract_identity(portrait, models.config.face.space, encode=encode, features=features)


def encode_speech(recording: Recording, models: Models, listening: Listening = AS_ORIGINAL) -> Speech:
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
            read = encode_aside(anatomy_of(wav2vec2), waveform, plan, device, windows=windows)
    return Speech(read, plan, config.audio.window)


def encode_prompt(prompt: str, models: Models) -> Tensor:
    """The prompt's embedding [1, M, text_dim]; zeros for an empty one."""
    trunk = models.config.trunk
    if not prompt.strip():
        return torch.zeros(1, trunk.text_tokens, trunk.text_dim)
    with models.text as encoder:
        return encoder.encode(prompt, trunk.text_tokens)
