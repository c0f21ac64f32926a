"""Measure a model on all cases, through the render path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hallo3.face.analyzer import analyze_portrait
from hallo3.identity import Identity, frame_portrait
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import encode_prompts, encode_speech, extract_identity, render_identity
from hallo3.script import Script
from hallo3.settings import Settings, settings_for

from .cases import Case, make_case
from .figures import LOUD_OPENING, Figures, measure_video
from .pixels import measure_opening, resize_square

ReplaceIdentity = Callable[[Identity, int], Identity]
"""Another identity for a case's own, by the case's number: shows that each part of it is used."""


def render_case(
    case: Case,
    models: Models,
    *,
    prompt: str = "",
    script: Script | None = None,
    identity: Identity | None = None,
    **changes: Any,
) -> Tensor:
    """The video [F, 3, H, W] in 0..1 of a case, with ``changes`` to the model's default settings."""
    settings = replace(settings_for(models.config.defaults), **changes)
    noise = make_noise(settings.seed)
    with torch.inference_mode():
        identity = identity or make_identity(case, models, settings)
        speech = encode_speech(case.speech, models)
        prompts = [prompt] * len(speech.plan) if script is None else script.prompts(speech.plan, prompt)
        texts = encode_prompts(prompts, models)
        frames = render_identity(identity, speech, texts, models, settings, noise)
        return torch.cat([segment.pixels for segment in frames])


def make_identity(case: Case, models: Models, settings: Settings | None = None) -> Identity:
    settings = settings or settings_for(models.config.defaults)
    with torch.inference_mode():
        face = analyze_portrait(case.portrait, models.face, models.config.face)
        framed = frame_portrait(case.portrait, face, models.config.segment.shape)
        return extract_identity(framed, models, settings, make_noise(settings.seed))


def measure_cases(
    cases: Sequence[Case],
    models: Models,
    *,
    replace_identity: ReplaceIdentity | None = None,
    speech_of_next: bool = False,
    **changes: Any,
) -> list[Figures]:
    """Every case's figures; the control is the next case's speech, strangers are all other portraits.

    ``speech_of_next`` renders the next case's recording but measures against the case's own.
    """
    results: list[Figures] = []
    for number, case in enumerate(cases):
        following = cases[(number + 1) % len(cases)]
        rendered = replace(case, speech=following.speech) if speech_of_next else case
        identity = replace_identity(make_identity(case, models), number) if replace_identity else None
        results.append(
            measure_video(
                render_case(rendered, models, identity=identity, **changes),
                case.portrait,
                case.mouth,
                new_frames=models.config.segment.new_frames,
                other=following.mouth,
                truth=case.truth if len(case.truth) else None,
                strangers=[other.portrait for other in cases if other is not case],
            )
        )
    return results


def measure_silence(case: Case, models: Models, seconds: float = 3.0, settle: float = 0.4) -> float:
    """The opening in digital silence after the case's speech, relative to that in loud speech.

    The first ``settle`` seconds of the silence do not count.
    """
    segment = models.config.segment
    silence = torch.zeros(1, int(seconds * segment.sample_rate))
    speech = Recording(torch.cat((case.speech.waveform, silence), dim=1), segment.sample_rate)
    longer = make_case(case.name, case.portrait, speech, segment)
    rows = measure_opening(render_case(longer, models), resize_square(case.portrait, segment.height))
    loud = torch.from_numpy(longer.mouth.open > LOUD_OPENING)
    silent = rows[len(case.mouth.open) + round(settle * segment.fps) :]
    return float(silent.mean() / rows[loud].mean())


def make_long_case(cases: Sequence[Case], portrait: Tensor, models: Models, seconds: float) -> Case:
    """All cases' speeches in turn for ``seconds``, with one portrait."""
    segment = models.config.segment
    samples = int(seconds * segment.sample_rate)
    parts: list[Tensor] = []
    while sum(part.shape[1] for part in parts) < samples:
        parts.append(cases[len(parts) % len(cases)].speech.waveform)
    speech = Recording(torch.cat(parts, dim=1)[:, :samples], segment.sample_rate)
    return make_case("long", portrait, speech, segment)
