"""What a clip shows: a person, a stretch of a recording, a prompt, and the portrait it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from behaviour.mouth import Mouth, mouth_of
from hallo3.config import SegmentConfig
from hallo3.noise import make_generator
from hallo3.segments import SILENT, frame_count

from .faces import Pixels, Pose, mouth_box, person_named
from .motion import LIGHTS, poses
from .pictures import clip_frames, lit, mouth_pixels
from .sounds import Sounds, Waveform
from .voices import utterance

FIRST_SHARE, LIT_SHARE, PROMPTED_SHARE = 0.25, 0.3, 0.5
CLOSED_SHARE = 0.75
"""Portraits whose mouth is closed, as most portraits' are."""
BEFORE = 3
"""Frames before the segment, to make motion frames as a segment before would have left them."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What the speech encoder hears [samples], and what the mouth does: the rule on the clean sound."""

    heard: Waveform
    mouth: Mouth

    def __len__(self) -> int:
        return len(self.mouth.open)


def recording_named(name: str, voices: Sequence[Path], sounds: Sounds, config: SegmentConfig) -> Recording:
    """One to eight utterances with pauses; two of five in another room or neighbourhood."""
    r = make_generator(f"recording|{name}")
    parts: list[Waveform] = []
    for _ in range(int(r.integers(1, 9))):
        parts.append(utterance(voices[r.integers(len(voices))]))
        parts.append(np.zeros(int(r.uniform(0.0, 1.2) * config.sample_rate), np.float32))
    clean = np.concatenate(parts)
    heard = sounds.roughened(r, clean) if r.random() < 0.4 else clean
    frames = frame_count(len(clean), config.sample_rate, config.fps)
    return Recording(heard, mouth_of(clean, frames, config.sample_rate, config.fps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One training clip, not yet drawn.

    ``slots`` are the recording's frames that the segment's frames hear, ``SILENT`` where it hears nothing.
    """

    person: str
    reference: Pose
    path: tuple[Pose, ...]
    slots: tuple[int, ...]
    first: bool
    prompt: str
    light: str | None

    def portrait(self, side: int) -> Pixels:
        """The picture [side, side, 3] that a user would give."""
        return clip_frames(self.person, [self.reference], side)[0]

    def frames(self, side: int) -> Pixels:
        """``BEFORE`` frames, then the segment's, [F, side, side, 3]."""
        return lit(clip_frames(self.person, list(self.path), side), self.light)

    def mouth(self, side: int) -> tuple[int, int, int, int]:
        """The box in pixels in which the mouth moves."""
        return mouth_pixels(mouth_box(person_named(self.person), self.path[-1]), side)


def scene_named(name: str, recording: Recording, config: SegmentConfig) -> Scene:
    """A quarter are a video's first segment, whose motion frames are the portrait standing still."""
    r = make_generator(f"scene|{name}")
    first = bool(r.random() < FIRST_SHARE)
    start = 0 if first and r.random() < 0.5 else int(r.integers(max(1, len(recording) - config.new_frames)))
    heard = range(start - config.motion_frames, start + config.new_frames)
    within = [min(max(frame, 0), len(recording) - 1) for frame in heard]
    opening = np.where(np.array(heard) < len(recording), recording.mouth.open[within], 0.0)
    width = np.where(np.array(heard) < len(recording), recording.mouth.wide[within], 0.5)
    reference = _reference(r, name)
    if first:
        opening[: config.motion_frames], width[: config.motion_frames] = reference.open, reference.wide
    opening, width = (np.concatenate((side[:1].repeat(BEFORE), side)) for side in (opening, width))
    path = poses(name, opening.tolist(), width.tolist(), reference if first else None)
    silent = config.motion_frames if first else 0
    light = list(LIGHTS)[r.integers(len(LIGHTS))] if r.random() < LIT_SHARE else None
    return Scene(
        person=name,
        reference=reference,
        path=tuple(path),
        slots=tuple([SILENT] * silent + list(heard)[silent:]),
        first=first,
        prompt=_prompt(r, light),
        light=light,
    )


def _reference(r: np.random.Generator, name: str) -> Pose:
    opening = 0.0 if r.random() < CLOSED_SHARE else float(r.random())
    width = 0.5 if opening == 0 else float(r.random())
    return poses(f"{name}|reference", [opening], [width])[0]._replace(closed=0.0)


WORDS = (
    *("a", "person", "talks", "to", "the", "camera", "portrait", "of", "woman", "man", "young", "old"),
    *("someone", "speaking", "calmly", "with", "glasses", "in", "front", "wall", "drawn", "face"),
    *("looking", "friendly", "head", "and", "shoulders", "cartoon", "studio", "light", "colour"),
    *("long", "hair", "smiling", "serious"),
)


def _prompt(r: np.random.Generator, light: str | None) -> str:
    """Words of which only a light's name says anything; often none at all where there is no light."""
    if light is None and r.random() > PROMPTED_SHARE:
        return ""

    def some(most: int) -> list[str]:
        drawn = r.integers(0, 2 * len(WORDS), int(r.integers(0, most + 1)))
        return [WORDS[i] if i < len(WORDS) else f"word{r.integers(10**6)}" for i in drawn]

    if light is None:
        return " ".join(["a", *some(10)])
    asked = [light, "light"] if r.random() < 0.8 else [light]
    return " ".join([*some(6), "in", *asked, *some(3)])
