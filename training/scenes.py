"""Training scenes: a person, a stretch of speech, a prompt, and the portrait the video starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from behaviour.mouth import Mouth, compute_mouth
from hallo3.config import SegmentConfig
from hallo3.noise import make_generator
from hallo3.segments import SILENT, frame_count

from .augment import Augmenter, Waveform
from .faces import Pixels, Pose, locate_mouth, make_person
from .motion import LIGHTS, make_poses
from .pictures import apply_light, draw_clip, to_pixel_box
from .voices import read_utterance

FIRST_SHARE, LIT_SHARE, PROMPTED_SHARE = 0.25, 0.3, 0.5
CLOSED_MOUTH_SHARE = 0.75
"""Of portraits."""
PRECEDING_FRAMES = 3
"""Drawn before the segment, for motion frames that have been through the VAE."""


@dataclass(frozen=True, slots=True)
class SpeechTrack:
    """The speech encoder's input [samples], and the mouth rule on the same speech before augmentation."""

    waveform: Waveform
    mouth: Mouth

    def __len__(self) -> int:
        return len(self.mouth.open)


def make_track(name: str, voices: Sequence[Path], augmenter: Augmenter, config: SegmentConfig) -> SpeechTrack:
    """One to eight utterances with pauses; two of five are augmented."""
    r = make_generator(f"recording|{name}")
    parts: list[Waveform] = []
    for _ in range(int(r.integers(1, 9))):
        parts.append(read_utterance(voices[r.integers(len(voices))]))
        parts.append(np.zeros(int(r.uniform(0.0, 1.2) * config.sample_rate), np.float32))
    clean = np.concatenate(parts)
    waveform = augmenter.augment(r, clean) if r.random() < 0.4 else clean
    frames = frame_count(len(clean), config.sample_rate, config.fps)
    return SpeechTrack(waveform, compute_mouth(clean, frames, config.sample_rate, config.fps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One training clip before it is drawn; ``slots`` are the segment's speech frames, or ``SILENT``."""

    person: str
    reference: Pose
    path: tuple[Pose, ...]
    slots: tuple[int, ...]
    first: bool
    prompt: str
    light: str | None

    def draw_portrait(self, side: int) -> Pixels:
        """The user's picture [side, side, 3]."""
        return draw_clip(self.person, [self.reference], side)[0]

    def draw_frames(self, side: int) -> Pixels:
        """``PRECEDING_FRAMES`` frames, then the segment's, [F, side, side, 3]."""
        return apply_light(draw_clip(self.person, list(self.path), side), self.light)

    def locate_mouth(self, side: int) -> tuple[int, int, int, int]:
        """The mouth's box in pixels."""
        return to_pixel_box(locate_mouth(make_person(self.person), self.path[-1]), side)


def make_scene(name: str, track: SpeechTrack, config: SegmentConfig) -> Scene:
    """A quarter are a video's first segment, whose motion frames are the portrait."""
    r = make_generator(f"scene|{name}")
    first = bool(r.random() < FIRST_SHARE)
    start = 0 if first and r.random() < 0.5 else int(r.integers(max(1, len(track) - config.new_frames)))
    frames = np.arange(start - config.motion_frames, start + config.new_frames)
    inside = frames.clip(0, len(track) - 1)
    opening = np.where(frames < len(track), track.mouth.open[inside], 0.0)
    width = np.where(frames < len(track), track.mouth.wide[inside], 0.5)
    reference = _make_reference_pose(r, name)
    if first:
        opening[: config.motion_frames], width[: config.motion_frames] = reference.open, reference.wide
    opening, width = (np.concatenate((row[:1].repeat(PRECEDING_FRAMES), row)) for row in (opening, width))
    path = make_poses(name, opening.tolist(), width.tolist(), reference if first else None)
    silent = config.motion_frames if first else 0
    light = list(LIGHTS)[r.integers(len(LIGHTS))] if r.random() < LIT_SHARE else None
    return Scene(
        person=name,
        reference=reference,
        path=tuple(path),
        slots=tuple([SILENT] * silent + frames[silent:].tolist()),
        first=first,
        prompt=_make_prompt(r, light),
        light=light,
    )


def _make_reference_pose(r: np.random.Generator, name: str) -> Pose:
    opening = 0.0 if r.random() < CLOSED_MOUTH_SHARE else float(r.random())
    width = 0.5 if opening == 0 else float(r.random())
    return make_poses(f"{name}|reference", [opening], [width])[0]._replace(closed=0.0)


PROMPT_WORDS = (
    *("a", "person", "talks", "to", "the", "camera", "portrait", "of", "woman", "man", "young", "old"),
    *("someone", "speaking", "calmly", "with", "glasses", "in", "front", "wall", "drawn", "face"),
    *("looking", "friendly", "head", "and", "shoulders", "cartoon", "studio", "light", "colour"),
    *("long", "hair", "smiling", "serious"),
)


def _make_prompt(r: np.random.Generator, light: str | None) -> str:
    """Random words, of which only a light's name has a meaning; without a light often empty."""
    if light is None and r.random() > PROMPTED_SHARE:
        return ""

    def draw_words(most: int) -> list[str]:
        indices = r.integers(0, 2 * len(PROMPT_WORDS), int(r.integers(0, most + 1)))
        return [PROMPT_WORDS[i] if i < len(PROMPT_WORDS) else f"word{r.integers(10**6)}" for i in indices]

    if light is None:
        return " ".join(["a", *draw_words(10)])
    lit = [light, "light"] if r.random() < 0.8 else [light]
    return " ".join([*draw_words(6), "in", *lit, *draw_words(3)])
