"""Measure a model on all cases, through the render path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hallo3.face.registry import analyze_portrait
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from hallo3.identity import Identity, frame_portrait
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import animate, encode_prompts, encode_speech, extract_identity, render_identity
from hallo3.script import Script
from hallo3.settings import Settings, settings_for

from .angle import measure_angles
from .cases import Case, PromptCase, make_speaker
from .figures import LOUD_OPENING, Figures, Obeyed, measure_prompt, measure_video
from .pixels import Head, Region, measure_openings

MakeIdentity = Callable[[Case], Identity]
"""Another identity than a case's own: shows that each part of it is used."""


def render_case(
    case: Case,
    models: Models,
    *,
    prompt: str = "",
    script: Script | None = None,
    identity: Identity | None = None,
    given: bool = False,
    **changes: Any,
) -> Tensor:
    """The video [F, 3, H, W] in 0..1 of a case, with ``changes`` to the model's default settings. The
    analyzer finds the faces, or they are ``given`` where the case says; several people have a recording
    each, from left to right."""
    settings = replace(settings_for(models.config.defaults), **changes)
    noise = make_noise(settings.seed)
    with torch.inference_mode():
        if len(case.speakers) > 1:
            recordings: Any = [speaker.speech for speaker in case.speakers]
            boxes = [locate_box(head, case.portrait) for head in case.heads] if given else []
            faces: Any = [FaceChoice(box=box) for box in boxes]
            segments = animate(case.portrait, recordings, prompt, models, settings, noise=noise, faces=faces)
        else:
            identity = identity or make_identity(case, models, settings, given=given)
            speech = encode_speech(case.speakers[0].speech, models)
            prompts = [prompt] * len(speech.plan) if script is None else script.prompts(speech.plan, prompt)
            embeds = encode_prompts(prompts, models)
            segments = render_identity(identity, speech, embeds, models, settings, noise)
        return join((segment.pixels for segment in segments), case.frames)


def join(parts: Iterable[Tensor], count: int) -> Tensor:
    """Parts [f, 3, H, W] of a video as ``count`` frames, which are in memory once."""
    video, done = torch.zeros(0), 0
    for part in parts:
        video = video if done else part.new_zeros(count, *part.shape[1:])
        video[done : done + len(part)] = part
        done += len(part)
    return video[:done]


def make_identity(
    case: Case, models: Models, settings: Settings | None = None, *, given: bool = False
) -> Identity:
    """Of a case's only person, found by the analyzer, or where the case says (``given``)."""
    settings = settings or settings_for(models.config.defaults)
    analyzer: Any = models.face
    if given:
        analyzer = replace(analyzer, choice=FaceChoice(box=locate_box(case.heads[0], case.portrait)))
    with torch.inference_mode():
        face = analyze_portrait(case.portrait, analyzer, models.config.face)
        framed = frame_portrait(case.portrait, face, models.config.segment.shape)
        return extract_identity(framed, models, settings, make_noise(settings.seed))


def find_heads(picture: Tensor, boxes: Sequence[PixelBox]) -> list[Head]:
    """The heads in an analyzer's boxes of a picture [3, h, w], looking where they seem to look."""
    height = picture.shape[-2]
    regions = [Region(*(edge / height for edge in box)) for box in boxes]
    angles = [measure_angles(picture[None], picture, region)[0].tolist() for region in regions]
    return [Head(region, yaw, pitch) for region, (yaw, pitch) in zip(regions, angles, strict=True)]


def locate_box(head: Head, picture: Tensor) -> PixelBox:
    """A head's outline in a picture [3, h, w]."""
    return PixelBox(*(edge * picture.shape[-2] for edge in head.box))


def measure_cases(
    cases: Sequence[Case],
    models: Models,
    *,
    identify: MakeIdentity | None = None,
    speech_of: Case | None = None,
    **changes: Any,
) -> list[Figures]:
    """Figures of every case of one person; the control is the next case's speech, strangers are all other
    portraits.

    ``speech_of`` is a case whose recording is rendered for all, and not measured against.
    """
    results: list[Figures] = []
    for number, case in enumerate(cases):
        following = cases[(number + 1) % len(cases)].speakers[0]
        rendered = give_speech(case, [speech_of.speakers[0].speech], models) if speech_of else case
        identity = identify(case) if identify else None
        results.append(
            measure_video(
                render_case(rendered, models, identity=identity, **changes),
                case,
                new_frames=models.config.segment.new_frames,
                other=following.mouth,
                strangers=[other for other in cases if other is not case],
            )
        )
    return results


def measure_pairs(
    cases: Sequence[Case], models: Models, *, swapped: bool = False, **changes: Any
) -> list[Figures]:
    """Figures of cases of two people, each mouth against its own voice, and as the control against the
    other's. ``swapped`` exchanges the recordings, but not what is measured against: ``control`` then is high
    where ``follows`` was."""
    results: list[Figures] = []
    for case in cases:
        voices = [speaker.speech for speaker in case.speakers]
        rendered = give_speech(case, voices[::-1], models) if swapped else case
        frames = render_case(rendered, models, **changes)
        results.append(measure_video(frames, case, new_frames=models.config.segment.new_frames))
    return results


def measure_prompts(
    cases: Sequence[Case], prompts: Sequence[PromptCase], models: Models, **changes: Any
) -> list[Obeyed]:
    """What one segment of video shows of every prompt."""
    known = {case.name: shorten(case, models) for case in cases}
    return [
        measure_prompt(
            render_case(known[each.name], models, prompt=each.prompt, **changes), known[each.name], each
        )
        for each in prompts
    ]


def measure_unprompted(
    cases: Sequence[Case], prompts: Sequence[PromptCase], models: Models, **changes: Any
) -> list[Obeyed]:
    """The same figures of videos without a prompt: what is there by chance."""
    short = {case.name: shorten(case, models) for case in cases}
    videos = {name: render_case(case, models, **changes) for name, case in short.items()}
    return [measure_prompt(videos[each.name], short[each.name], each) for each in prompts]


def shorten(case: Case, models: Models) -> Case:
    """A case with the speech of one segment."""
    segment = models.config.segment
    samples = segment.new_frames * segment.sample_rate // segment.fps
    speech = [Recording(each.speech.waveform[:, :samples], segment.sample_rate) for each in case.speakers]
    return give_speech(case, speech, models)


def give_speech(case: Case, recordings: Sequence[Recording], models: Models) -> Case:
    """A case whose people say something else."""
    people = zip(case.speakers, recordings, strict=True)
    speakers = tuple(make_speaker(person.head, speech, models.config.segment) for person, speech in people)
    return replace(case, speakers=speakers)


def measure_silence(case: Case, models: Models, seconds: float = 3.0, settle: float = 0.4) -> float:
    """The opening in digital silence after the speech of a case's only person, relative to that in loud
    speech.

    The first ``settle`` seconds of the silence do not count.
    """
    segment, speaker = models.config.segment, case.speakers[0]
    silence = torch.zeros(1, int(seconds * segment.sample_rate))
    longer = give_speech(
        case, [Recording(torch.cat((speaker.speech.waveform, silence), dim=1), segment.sample_rate)], models
    )
    rows = measure_openings(render_case(longer, models), case.portrait, speaker.head)
    loud = torch.from_numpy(longer.speakers[0].mouth.open > LOUD_OPENING)
    silent = rows[len(speaker.mouth.open) + round(settle * segment.fps) :]
    return float(silent.mean() / rows[loud].mean())


def make_long_case(cases: Sequence[Case], case: Case, models: Models, seconds: float) -> Case:
    """A case of one person who says for ``seconds`` what all of ``cases`` say in turn."""
    segment = models.config.segment
    samples = int(seconds * segment.sample_rate)
    parts: list[Tensor] = []
    while sum(part.shape[1] for part in parts) < samples:
        parts.append(cases[len(parts) % len(cases)].speakers[0].speech.waveform)
    speech = Recording(torch.cat(parts, dim=1)[:, :samples], segment.sample_rate)
    longer = give_speech(case, [speech], models)
    return replace(longer, name="long", change=math.nan)
