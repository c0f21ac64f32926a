"""A model judged on all cases, through the way that every render goes."""

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
from hallo3.pipeline import encode_prompt, encode_speech, extract_identity, render_identity
from hallo3.settings import Settings, settings_for

from .cases import Case, case_of
from .figures import LOUD, Figures, figures
from .pixels import at_side, opening

Swap = Callable[[Identity, int], Identity]
"""Another identity in a case's place, by its number: for showing that each part of it is used."""


def film(
    case: Case, models: Models, *, prompt: str = "", identity: Identity | None = None, **changes: Any
) -> Tensor:
    """The video [F, 3, H, W] in 0..1 of a case, with the model's own settings but for ``changes``."""
    settings = replace(settings_for(models.config.defaults), **changes)
    noise = make_noise(settings.seed)
    with torch.inference_mode():
        who = identity or identity_of(case, models, settings)
        speech = encode_speech(case.speech, models)
        made = render_identity(who, speech, encode_prompt(prompt, models), models, settings, noise)
        return torch.cat([frames.pixels for frames in made])


def identity_of(case: Case, models: Models, settings: Settings | None = None) -> Identity:
    """Who is on a case's portrait."""
    chosen = settings or settings_for(models.config.defaults)
    with torch.inference_mode():
        face = analyze_portrait(case.portrait, models.face, models.config.face)
        framed = frame_portrait(case.portrait, face, models.config.segment.shape)
        return extract_identity(framed, models, chosen, make_noise(chosen.seed))


def judged(
    cases: Sequence[Case],
    models: Models,
    *,
    swap: Swap | None = None,
    speech_of_next: bool = False,
    **changes: Any,
) -> list[Figures]:
    """Every case's figures; the control is the next case's speech, strangers are all other portraits.

    ``swap`` gives another identity in a case's place, ``speech_of_next`` lets the next case's recording
    drive the video: what is judged stays the case.
    """
    found: list[Figures] = []
    for number, case in enumerate(cases):
        following = cases[(number + 1) % len(cases)]
        driven = replace(case, speech=following.speech) if speech_of_next else case
        identity = swap(identity_of(case, models), number) if swap else None
        frames = film(driven, models, identity=identity, **changes)
        found.append(
            figures(
                frames,
                case.portrait,
                case.mouth,
                new_frames=models.config.segment.new_frames,
                other=following.mouth,
                truth=case.truth if len(case.truth) else None,
                strangers=[other.portrait for other in cases if other is not case],
            )
        )
    return found


def silence_ratio(case: Case, models: Models, seconds: float = 3.0, settle: float = 0.4) -> float:
    """How open the mouth stays in digital silence after the case's speech, in shares of loud speech.

    The first moments of the silence, ``settle`` seconds, are left out.
    """
    segment = models.config.segment
    quiet = torch.zeros(1, int(seconds * segment.sample_rate))
    speech = Recording(torch.cat((case.speech.waveform, quiet), dim=1), segment.sample_rate)
    longer = case_of(case.name, case.portrait, speech, segment)
    rows = opening(film(longer, models), at_side(case.portrait, segment.height))
    loud = torch.from_numpy(longer.mouth.open > LOUD)
    silent = rows[len(case.mouth.open) + round(settle * segment.fps) :]
    return float(silent.mean() / rows[loud].mean())


def spoken_on(cases: Sequence[Case], portrait: Tensor, models: Models, seconds: float) -> Case:
    """One portrait that says all cases' speeches, over and over, for so long."""
    segment = models.config.segment
    wanted = int(seconds * segment.sample_rate)
    parts: list[Tensor] = []
    while sum(part.shape[1] for part in parts) < wanted:
        parts.append(cases[len(parts) % len(cases)].speech.waveform)
    whole = torch.cat(parts, dim=1)[:, :wanted]
    return case_of("long", portrait, Recording(whole, segment.sample_rate), segment)
