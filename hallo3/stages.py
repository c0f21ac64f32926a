"""The package's own machines behind the loop: encode, sample, decode, with their conditions prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .audio.speech import Speech
from .identity import Identity
from .latents import decode_frames, encode_pixels
from .model.conditions import RunConditions, SegmentConditions
from .model.guidance import PASSES, Predict, single_branch
from .model.transformer import Hallo3Transformer
from .models import Models
from .noise import Noise, Purpose
from .residency import Locking
from .sampling.denoiser import Denoise, guided_denoiser, guided_within
from .sampling.samplers import sampler_named
from .sampling.schedule import Schedule, schedule
from .sampling.step_cache import CacheReport, Reuse, StepCache, extrapolated
from .segments import Segment
from .settings import Settings


class Progress(NamedTuple):
    """Where a run stands: finished steps of a segment, out of all of both; what the step cache has done in
    this segment, None without one."""

    segment: int
    segments: int
    step: int
    steps: int
    cache: CacheReport | None = None


Watch = Callable[[Progress], None]


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
            return sent(self.noise(purpose, index, step, shape), image_latents.device)

        def report(step: int) -> None:
            done = cache.report if cache else None
            self.watch(Progress(index, len(self.speech.plan), step, self.settings.steps, done))

        with self.models.transformer as dit:
            windows = self.speech.segment(index).to(self.run.text)
            heard = SegmentConditions(
                audio=dit.hear(windows, on_access=self.settings.on_access),
                image_latents=F.pad(image_latents, (0, 0, 0, 0, 0, rest)),
            )
            denoise = guided_denoiser(self._predict(dit, heard), self.settings.guidance_scale)
            cache = step_cache(self.settings, denoise)
            sample = sampler_named(self.settings.sampler)
            start = draw(Purpose.START, 0)
            return sample(cache or denoise, start, self.schedule, lambda i: draw(Purpose.STEP, i), report)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents -> slices of frames [1, 3, F, H, W] around -1..1."""
        return decode_frames(latents, self.models)

    def _predict(self, dit: Hallo3Transformer, heard: SegmentConditions) -> Predict:
        guided, alone = self.settings.guided, single_branch(dit, self.run, heard)
        if not guided:
            return alone
        both = PASSES[self.settings.passes](dit, self.run, heard)
        if len(guided) == self.settings.steps:
            return both
        return guided_within(guided, both, alone)


def step_cache(settings: Settings, denoise: Denoise, reuse: Reuse = extrapolated) -> StepCache | None:
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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device. A GPU fetches it when its turn comes; nothing waits for that."""
    if device.type == "cuda":
        return Locking().copied(tensor).to(device, non_blocking=True)
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
    steps = schedule(settings.steps)
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
