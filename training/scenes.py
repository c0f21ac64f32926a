"""Training scenes: people, a stretch of speech for each, a prompt, and the portrait a video starts from."""

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
from .faces import Pixels, Pose, locate_head, locate_mouth, make_person
from .grounds import GROUNDS, WEATHERS, Ground
from .motion import make_poses
from .pictures import (
    BARS_SHARE,
    LIGHTS,
    Cast,
    Look,
    draw_clip,
    draw_direction,
    draw_frame,
    make_cast,
    to_pixel_box,
)
from .prompts import LOOKS, Asked, write_prompt
from .things import THINGS
from .voices import read_utterance

FIRST_SHARE = 0.3
SCENE_SHARE, WEATHER_SHARE, THING_SHARE = 0.5, 0.12, 0.2
"""Of portraits: with a place instead of a wall, with weather, with each of two things."""
ASK_SHARE = 0.27
"""Prompts that change the ground, the weather, the light; that add a thing; that turn the head."""
SILENT_SHARE = 0.5
"""Of pairs: one of the two does not speak."""
CLOSED_MOUTH_SHARE = 0.75
"""Of portraits."""
PRECEDING_FRAMES = 3
"""Drawn before the segment, for motion frames that have been through the VAE."""
MAX_SPEAKERS = 2


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
    """One training clip before it is drawn. ``slots`` are each person's speech frames in their track, or
    ``SILENT``; ``start`` is the time of the segment's first frame."""

    cast: Cast
    references: tuple[Pose, ...]
    paths: tuple[tuple[Pose, ...], ...]
    slots: tuple[tuple[int, ...], ...]
    first: bool
    portrait: Look
    look: Look
    start: float
    prompt: str

    def draw_portrait(self, height: int, width: int) -> Pixels:
        """The user's picture [height, width, 3]."""
        return draw_frame(self.portrait, self.cast, self.references, 0.0, height, width)

    def draw_frames(self, height: int, width: int) -> Pixels:
        """``PRECEDING_FRAMES`` frames, then the segment's, [F, height, width, 3]."""
        return draw_clip(self.look, self.cast, self.paths, self.start - PRECEDING_FRAMES, height, width)

    def locate_heads(self, height: int) -> list[tuple[float, float, float, float]]:
        """The heads in a portrait of so many rows, in pixels: left, top, right, bottom."""
        people = zip(self.cast.names, self.references, self.cast.places, strict=True)
        boxes = [locate_head(make_person(name), pose, place) for name, pose, place in people]
        return [(height * box[0], height * box[1], height * box[2], height * box[3]) for box in boxes]

    def locate_mouths(self, height: int) -> list[tuple[int, int, int, int]]:
        """The mouths' boxes in pixels, wherever they are in the segment."""
        boxes: list[tuple[int, int, int, int]] = []
        for name, path, place in zip(self.cast.names, self.paths, self.cast.places, strict=True):
            moments = path[PRECEDING_FRAMES::8] + path[-1:]
            each = np.array([locate_mouth(make_person(name), pose, place) for pose in moments])
            edges = (*each[:, :2].min(axis=0), *each[:, 2:].max(axis=0))
            boxes.append(to_pixel_box((edges[0], edges[1], edges[2], edges[3]), height))
        return boxes


def make_scene(
    name: str, tracks: Sequence[SpeechTrack], config: SegmentConfig, people: int | None = None
) -> Scene:
    """A scene whose people speak from ``tracks``, one each; ``people`` fixes their number."""
    r = make_generator(f"scene|{name}")
    bars = people != 2 and bool(r.random() < BARS_SHARE)
    cast = make_cast(r, name, bars)
    while people is not None and len(cast.names) != people:
        cast = make_cast(r, name, bars)
    first = bool(r.random() < FIRST_SHARE)
    directions = [draw_direction(r, cast, index) for index in range(len(cast.names))]
    references = [
        _make_reference_pose(r, each, look) for each, look in zip(cast.names, directions, strict=True)
    ]
    portrait, look, asked = _make_looks(r, name, bars)
    if asked.look is not None:
        yaw, pitch = LOOKS[asked.look].direction
        directions = [
            (
                yaw + r.uniform(-0.1, 0.1) if yaw else each[0],
                pitch + r.uniform(-0.05, 0.05) if pitch else each[1],
            )
            for each in directions
        ]
    speaks = [True] * len(cast.names)
    if len(cast.names) > 1 and r.random() < SILENT_SHARE:
        speaks[r.integers(len(cast.names))] = False
    slots, paths = list[tuple[int, ...]](), list[tuple[Pose, ...]]()
    begin = first and r.random() < 0.5
    for index, each in enumerate(cast.names):
        track = tracks[index]
        at = 0 if begin else int(r.integers(max(1, len(track) - config.new_frames)))
        frames = np.arange(at - config.motion_frames, at + config.new_frames)
        inside = frames.clip(0, len(track) - 1)
        heard = (frames < len(track)) & speaks[index]
        opening = np.where(heard, track.mouth.open[inside], 0.0)
        width = np.where(heard, track.mouth.wide[inside], 0.5)
        reference = references[index]
        if first:
            opening[: config.motion_frames], width[: config.motion_frames] = reference.open, reference.wide
        opening, width = (np.concatenate((row[:1].repeat(PRECEDING_FRAMES), row)) for row in (opening, width))
        start = reference if first else None
        paths.append(tuple(make_poses(each, opening.tolist(), width.tolist(), directions[index], start)))
        silent = config.motion_frames if first else 0
        rows = [SILENT] * silent + frames[silent:].tolist()
        slots.append(tuple(rows) if speaks[index] else (SILENT,) * config.frames)
    moving = 0.0 if first else float(r.uniform(0, 1500))
    return Scene(
        cast=cast,
        references=tuple(references),
        paths=tuple(paths),
        slots=tuple(slots),
        first=first,
        portrait=portrait,
        look=look,
        start=moving,
        prompt=write_prompt(r, asked),
    )


def _make_reference_pose(r: np.random.Generator, name: str, look: tuple[float, float]) -> Pose:
    opening = 0.0 if r.random() < CLOSED_MOUTH_SHARE else float(r.random())
    width = 0.5 if opening == 0 else float(r.random())
    return make_poses(f"{name}|reference", [opening], [width], look)[0]._replace(closed=0.0)


def _make_looks(r: np.random.Generator, name: str, bars: bool) -> tuple[Look, Look, Asked]:
    """The portrait's look, the video's, and what the prompt names: all that changes, some of what stays."""
    kinds = [kind for kind in GROUNDS if kind != "wall"]

    def chance(share: float) -> bool:
        return bool(r.random() < share)

    def pick(values: Sequence[str]) -> str:
        return values[r.integers(len(values))]

    kind = pick(kinds) if chance(SCENE_SHARE) else "wall"
    weather = pick(list(WEATHERS)) if chance(WEATHER_SHARE) else ""
    things = {pick(list(THINGS)) for _ in range(2) if chance(THING_SHARE)}
    portrait = Look(Ground(kind, name, weather), tuple(sorted(things)), None, bars)
    prompted = chance(0.75)
    new_kind = pick(kinds) if prompted and chance(ASK_SHARE) else kind
    new_weather = pick(list(WEATHERS)) if prompted and chance(ASK_SHARE) else weather
    new_things = things | ({pick(list(THINGS))} if prompted and chance(1.3 * ASK_SHARE) else set())
    light = pick(list(LIGHTS)) if prompted and chance(ASK_SHARE) else None
    ground = Ground(new_kind, name if new_kind == kind else f"{name}|asked", new_weather)
    look = Look(ground, tuple(sorted(new_things)), light, bars)
    said = {each for each in new_things if each not in things or chance(0.4)}
    asked = Asked(
        ground=new_kind if new_kind != kind or (kind != "wall" and chance(0.4)) else None,
        weather=new_weather if new_weather != weather or (weather and chance(0.4)) else None,
        light=light,
        things=tuple(sorted(said)),
        look=pick(list(LOOKS)) if prompted and chance(0.8 * ASK_SHARE) else None,
    )
    return portrait, look, asked if prompted else Asked()
