"""Drawn people: a person, decided by a name, and a pose.

Coordinates are in picture sides: (0, 0) is the upper left corner, (1, 1) the lower right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

SKIN_COLOURS: tuple[Colour, ...] = (
    (255, 224, 196),
    (244, 204, 172),
    (232, 188, 150),
    (214, 164, 124),
    (190, 138, 100),
    (160, 110, 76),
    (128, 86, 60),
    (104, 70, 52),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (40, 30, 28),
    (74, 48, 36),
    (116, 74, 44),
    (168, 110, 58),
    (216, 178, 110),
    (150, 60, 40),
    (150, 150, 156),
    (60, 66, 110),
)
HAIR_STYLES = ("short", "long", "bob", "bun", "curly", "bald", "fringe")
MOUTH_INSIDE: Colour = (70, 15, 25)
"""The same for every person: the metrics look for it."""
IRIS_COLOURS: tuple[Colour, ...] = ((70, 100, 140), (82, 112, 92), (96, 66, 44), (50, 44, 44))

MOUTH_BELOW_CENTRE = 0.20
"""From the head's centre to the mouth's."""
MAX_OPEN_HEIGHT, LIP_THICKNESS = 0.135, 0.016
"""Height between the lips of a wide open mouth, and a lip's thickness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is constant from frame to frame."""

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    shirt: Colour
    wall: tuple[Colour, Colour]
    style: str
    width: float
    height: float
    eyes: float
    brows: float
    nose: float
    mouth: float
    glasses: bool
    beard: bool


class Pose(NamedTuple):
    """What moves: the head's offset and tilt (radians); the mouth's opening and width, and how closed the
    eyes are, in 0..1."""

    x: float = 0.0
    y: float = 0.0
    tilt: float = 0.0
    open: float = 0.0
    wide: float = 0.5
    closed: float = 0.0


def make_person(name: str) -> Person:
    """The same name gives the same person."""
    r = make_generator(f"person|{name}")
    skin = SKIN_COLOURS[r.integers(len(SKIN_COLOURS))]
    return Person(
        skin=_vary(r, skin, 8),
        hair=_vary(r, HAIR_COLOURS[r.integers(len(HAIR_COLOURS))], 12),
        lips=_blend(skin, (168, 52, 64), r.uniform(0.45, 0.8)),
        iris=IRIS_COLOURS[r.integers(len(IRIS_COLOURS))],
        shirt=_draw_colour(r, 30, 215),
        wall=_draw_wall(r),
        style=HAIR_STYLES[r.integers(len(HAIR_STYLES))],
        width=r.uniform(0.265, 0.30),
        height=r.uniform(0.36, 0.395),
        eyes=r.uniform(0.105, 0.125),
        brows=r.uniform(0.105, 0.13),
        nose=r.uniform(0.02, 0.035),
        mouth=r.uniform(0.95, 1.1),
        glasses=bool(r.random() < 0.2),
        beard=bool(r.random() < 0.12),
    )


class MouthBox(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def locate_mouth(person: Person, pose: Pose) -> MouthBox:
    """The region of a pose's wide open mouth, lips included."""
    x, y = 0.5 + pose.x - pose.tilt * MOUTH_BELOW_CENTRE, 0.5 + pose.y + MOUTH_BELOW_CENTRE
    half = 0.15 * person.mouth + LIP_THICKNESS
    return MouthBox(
        x - half,
        y - MAX_OPEN_HEIGHT / 2 - 2 * LIP_THICKNESS,
        x + half,
        y + MAX_OPEN_HEIGHT / 2 + 3 * LIP_THICKNESS,
    )


def _blend(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * a + share * b) for a, b in zip(one, other, strict=True))
    return r, g, b


def _vary(r: np.random.Generator, colour: Colour, by: int) -> Colour:
    a, b, c = (int(np.clip(value + r.integers(-by, by + 1), 0, 255)) for value in colour)
    return a, b, c


def _draw_colour(r: np.random.Generator, low: int, high: int) -> Colour:
    channels = r.integers(low, high, 3)
    a, b, c = (round(float(0.6 * value + 0.4 * channels.mean())) for value in channels)
    return a, b, c


def _draw_wall(r: np.random.Generator) -> tuple[Colour, Colour]:
    one = _draw_colour(r, 70, 245)
    return one, _blend(one, _draw_colour(r, 50, 245), 0.5)
