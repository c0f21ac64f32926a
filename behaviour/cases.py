"""Test cases: pictures and sentences that no model was trained on, and prompts for them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo3.config import SegmentConfig
from hallo3.media.audio import Recording, read_recording, to_mono
from hallo3.media.image import read_picture
from hallo3.segments import frame_count

from .mouth import Mouth, compute_mouth
from .pixels import Head, Region

TRUTH, PROMPTS = "truth.json", "prompts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A head in the portrait, what it says, and the mouth that the rule asks for.

    ``truth`` [F] are the openings of the same person drawn to the same speech, by
    :func:`behaviour.pixels.measure_openings`; empty if there is no drawing.
    """

    head: Head
    speech: Recording
    mouth: Mouth
    truth: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A portrait [3, h, w] in 0..1 of one person or more, from left to right.

    Of the drawn video: ``sharpness`` and the ``change`` of its ground, by :mod:`behaviour.pixels` and
    :mod:`behaviour.contents`; NaN if there is none. ``contents`` is what the portrait shows.
    """

    name: str
    portrait: Tensor
    speakers: tuple[Speaker, ...]
    sharpness: float = math.nan
    change: float = math.nan
    ground: str = ""
    weather: str = ""
    things: frozenset[str] = frozenset()

    @property
    def heads(self) -> list[Head]:
        return [speaker.head for speaker in self.speakers]

    @property
    def frames(self) -> int:
        return max(len(speaker.mouth.open) for speaker in self.speakers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCase:
    """A prompt for the case ``name``, what it asks for (None or empty: nothing), and the ``change`` of the
    ground in a drawn video that obeys."""

    name: str
    prompt: str
    ground: str | None = None
    weather: str | None = None
    light: str | None = None
    things: tuple[str, ...] = ()
    look: str | None = None
    change: float = math.nan


def make_speaker(
    head: Head, speech: Recording, config: SegmentConfig, truth: Tensor | None = None
) -> Speaker:
    """With a recording of any sample rate and channels."""
    mono = to_mono(speech, config.sample_rate)
    frames = frame_count(len(mono), config.sample_rate, config.fps)
    return Speaker(
        head=head,
        speech=Recording(mono[None], config.sample_rate),
        mouth=compute_mouth(mono, frames, config.sample_rate, config.fps),
        truth=torch.zeros(0) if truth is None else truth,
    )


def read_cases(folder: Path, config: SegmentConfig) -> list[Case]:
    """The cases of a folder with ``truth.json``, ``NAME.png``, and ``NAME.N.ogg`` of every speaker, by
    name."""
    known = json.loads((folder / TRUTH).read_text(encoding="utf-8"))
    return [_read_case(folder, name, known[name], config) for name in sorted(known)]


def _read_case(folder: Path, name: str, known: dict[str, Any], config: SegmentConfig) -> Case:
    speakers: list[Speaker] = []
    for number, person in enumerate(known["people"]):
        head = Head(Region(*person["head"]), math.radians(person["yaw"]), math.radians(person["pitch"]))
        speech = read_recording(folder / f"{name}.{number}.ogg")
        speakers.append(make_speaker(head, speech, config, torch.tensor(person["openings"])))
    return Case(
        name=name,
        portrait=read_picture(folder / f"{name}.png"),
        speakers=tuple(speakers),
        sharpness=known["sharpness"],
        change=known["change"],
        ground=known["ground"],
        weather=known["weather"],
        things=frozenset(known["things"]),
    )


def read_prompts(folder: Path) -> list[PromptCase]:
    """In the order of the file: the cases take turns."""
    rows = json.loads((folder / PROMPTS).read_text(encoding="utf-8"))
    return [PromptCase(**{**row, "things": tuple(row.get("things", ()))}) for row in rows]


def singles(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if len(case.speakers) == 1]


def pairs(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if len(case.speakers) == 2]
