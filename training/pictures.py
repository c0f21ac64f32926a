"""Clips of drawn people as arrays, for the VAE's stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drawing import draw
from .faces import Pixels, Pose, locate_mouth, make_person
from .motion import LIGHTS, make_poses, make_random_mouth


@dataclass(frozen=True, slots=True)
class ClipPool:
    """``frames`` [N, F, side, side, 3] and the ``mouths``' boxes [N, F, 4] in pixels."""

    frames: Pixels
    mouths: NDArray[np.int16]


def draw_clip(person: str, path: list[Pose], side: int) -> Pixels:
    """[F, side, side, 3] of a moving person."""
    who = make_person(person)
    return np.stack([draw(who, pose, side) for pose in path])


def apply_light(frames: Pixels, light: str | None) -> Pixels:
    return frames if light is None else (frames * np.float32(LIGHTS[light])).astype(np.uint8)


def render_pool(name: str, clips: int, frames: int, side: int) -> ClipPool:
    """A clip each of ``clips`` people; a quarter of them in coloured light."""
    pixels = np.zeros((clips, frames, side, side, 3), np.uint8)
    mouths = np.zeros((clips, frames, 4), np.int16)
    lights = [None] * 12 + list(LIGHTS)
    for index in range(clips):
        title = f"{name}|{index}"
        path = make_poses(title, *make_random_mouth(title, frames))
        pixels[index] = apply_light(draw_clip(title, path, side), lights[index % len(lights)])
        person = make_person(title)
        mouths[index] = [to_pixel_box(locate_mouth(person, pose), side) for pose in path]
    return ClipPool(pixels, mouths)


def to_pixel_box(box: tuple[float, float, float, float], side: int) -> tuple[int, int, int, int]:
    """A box in whole pixels: left, top, right, bottom."""
    left, top, right, bottom = (value * side for value in box)
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))
