"""Pictures of a stage with people, and clips of them as arrays, for the VAE."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

from .drawing import Canvas, draw_person
from .faces import Pixels, Place, Pose, locate_mouth, make_person
from .grounds import GROUNDS, WEATHERS, Ground, draw_ground
from .motion import make_poses, make_random_mouth
from .things import BEHIND, THINGS, Holder, draw_thing

PAIR_SHARE, BARS_SHARE, FRONTAL_SHARE = 0.4, 0.1, 0.35
FRONTAL, WIDEST, STEEPEST = np.radians(12), np.radians(60), np.radians(24)
"""Yaw of people who look straight ahead, at most; yaw and pitch of all others."""
LIGHTS: dict[str, tuple[float, float, float]] = {
    "warm": (1.0, 0.82, 0.55),
    "blue": (0.55, 0.75, 1.0),
    "green": (0.62, 1.0, 0.62),
    "dim": (0.55, 0.55, 0.6),
}
"""Lights that a prompt can name, as factors of red, green and blue."""


class Look(NamedTuple):
    """What a picture shows besides people. ``bars`` are black left and right of a square, as an unframed
    square portrait has them."""

    ground: Ground
    things: tuple[str, ...] = ()
    light: str | None = None
    bars: bool = False


class Cast(NamedTuple):
    """One or two people from left to right: their names and places."""

    names: tuple[str, ...]
    places: tuple[Place, ...]


def make_cast(r: np.random.Generator, name: str, bars: bool) -> Cast:
    if not bars and r.random() < PAIR_SHARE:
        size, y = r.uniform(0.58, 0.76), r.uniform(0.44, 0.54)
        spread = [r.uniform(-0.06, 0.06, 2) for _ in range(2)]
        places = [Place(x + dx, y + 0.5 * dy, size) for x, (dx, dy) in zip((0.40, 1.10), spread, strict=True)]
        return Cast((f"{name}|left", f"{name}|right"), tuple(places))
    size = r.uniform(0.66, 1.0)
    x = 0.75 if bars else 0.75 + r.uniform(-0.28, 0.28)
    return Cast((name,), (Place(x, r.uniform(0.46, 0.52), size),))


def draw_direction(r: np.random.Generator, cast: Cast, index: int) -> tuple[float, float]:
    """Yaw and pitch of a person; two tend to look at each other."""
    pitch = float(np.clip(r.normal(0, np.radians(9)), -STEEPEST, STEEPEST))
    if len(cast.names) == 2 and r.random() < 0.7:
        return float((1 if index == 0 else -1) * r.uniform(0, np.radians(50))), pitch
    widest = FRONTAL if r.random() < FRONTAL_SHARE else WIDEST
    return float(r.uniform(-widest, widest)), pitch


def draw_frame(
    look: Look, cast: Cast, poses: Sequence[Pose], frame: float, height: int, width: int
) -> Pixels:
    """A picture [height, width, 3]; ``frame`` is the time of what moves by itself."""
    canvas = Canvas(height, width)
    draw_ground(canvas, look.ground, frame)
    people = [make_person(name) for name in cast.names]
    holder = Holder(people[0], cast.places[0])
    for thing in look.things:
        if thing in BEHIND:
            draw_thing(canvas, thing, cast.names[0], holder, frame)
    for person, pose, place in zip(people, poses, cast.places, strict=True):
        draw_person(canvas, person, pose, place)
    for thing in look.things:
        if thing not in BEHIND:
            draw_thing(canvas, thing, cast.names[0], holder, frame)
    pixels = canvas.reduce()
    if look.light is not None:
        pixels = (pixels * np.float32(LIGHTS[look.light])).astype(np.uint8)
    if look.bars:
        bar = (width - height) // 2
        pixels[:, :bar] = pixels[:, width - bar :] = 0
    return pixels


def draw_clip(
    look: Look, cast: Cast, paths: Sequence[Sequence[Pose]], start: float, height: int, width: int
) -> Pixels:
    """[F, height, width, 3] of people on their paths."""
    moments = zip(*paths, strict=True)
    return np.stack(
        [draw_frame(look, cast, poses, start + f, height, width) for f, poses in enumerate(moments)]
    )


@dataclass(frozen=True, slots=True)
class ClipPool:
    """``frames`` [N, F, height, width, 3], and one of the ``mouths`` as boxes [N, F, 4] in pixels."""

    frames: Pixels
    mouths: NDArray[np.int16]


def render_pool(name: str, clips: int, frames: int, size: tuple[int, int], workers: int = 1) -> ClipPool:
    """A clip each of ``clips`` casts in front of everything that is drawn."""
    pixels = np.zeros((clips, frames, *size, 3), np.uint8)
    mouths = np.zeros((clips, frames, 4), np.int16)
    names = [f"{name}|{index}" for index in range(clips)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        drawn = pool.map(_draw_pool_clip, names, [frames] * clips, [size] * clips, chunksize=16)
        for index, (clip, boxes) in enumerate(drawn):
            pixels[index], mouths[index] = clip, boxes
    return ClipPool(pixels, mouths)


def _draw_pool_clip(name: str, frames: int, size: tuple[int, int]) -> tuple[Pixels, NDArray[np.int16]]:
    r = make_generator(f"pool|{name}")
    bars = bool(r.random() < BARS_SHARE)
    cast = make_cast(r, name, bars)
    weather = list(WEATHERS)[r.integers(len(WEATHERS))] if r.random() < 0.3 else ""
    things = [kind for kind in THINGS if r.random() < 0.2]
    light = list(LIGHTS)[r.integers(len(LIGHTS))] if r.random() < 0.25 else None
    kind = list(GROUNDS)[r.integers(len(GROUNDS))]
    look = Look(Ground(kind, name, weather), tuple(things), light, bars)
    paths = [
        make_poses(each, *make_random_mouth(each, frames), draw_direction(r, cast, index))
        for index, each in enumerate(cast.names)
    ]
    pixels = draw_clip(look, cast, paths, float(r.uniform(0, 1000)), *size)
    chosen = int(r.integers(len(cast.names)))
    person = make_person(cast.names[chosen])
    boxes = [to_pixel_box(locate_mouth(person, pose, cast.places[chosen]), size[0]) for pose in paths[chosen]]
    return pixels, np.array(boxes, np.int16)


def to_pixel_box(box: tuple[float, float, float, float], height: int) -> tuple[int, int, int, int]:
    """A box in picture heights in whole pixels: left, top, right, bottom."""
    left, top, right, bottom = (value * height for value in box)
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))
