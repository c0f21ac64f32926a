"""Clips of drawn people as arrays, for the VAE's stage: who, where the mouth is, how they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drawing import draw
from .faces import Pixels, Pose, mouth_box, person_named
from .motion import LIGHTS, poses, wandering


@dataclass(frozen=True, slots=True)
class Pool:
    """``frames`` [N, F, side, side, 3] and the mouth's weight on every pixel, [N, F, 4] boxes in pixels."""

    frames: Pixels
    mouths: NDArray[np.int16]


def clip_frames(person: str, path: list[Pose], side: int) -> Pixels:
    """[F, side, side, 3] of a person moving."""
    who = person_named(person)
    return np.stack([draw(who, pose, side) for pose in path])


def lit(frames: Pixels, light: str | None) -> Pixels:
    """Frames in one of the lights."""
    if light is None:
        return frames
    return (frames * np.float32(LIGHTS[light])).astype(np.uint8)


def render_pool(name: str, clips: int, frames: int, side: int) -> Pool:
    """Clips of as many people; a quarter of them in some light."""
    made = np.zeros((clips, frames, side, side, 3), np.uint8)
    mouths = np.zeros((clips, frames, 4), np.int16)
    lights = [None] * 12 + list(LIGHTS)
    for index in range(clips):
        title = f"{name}|{index}"
        path = poses(title, *wandering(title, frames))
        made[index] = lit(clip_frames(title, path, side), lights[index % len(lights)])
        who = person_named(title)
        mouths[index] = [mouth_pixels(mouth_box(who, pose), side) for pose in path]
    return Pool(made, mouths)


def mouth_pixels(box: tuple[float, float, float, float], side: int) -> tuple[int, int, int, int]:
    """A box in whole pixels: left, top, right, bottom."""
    left, top, right, bottom = (value * side for value in box)
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))
