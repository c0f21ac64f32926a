"""Procedural portraits: a person decided by a name, drawn in any pose at any size (needs OpenCV).

Everything is measured in the picture's side: (0, 0) is the upper left corner, (1, 1) the lower right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hallo3.noise import named_generator

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

SKINS: tuple[Colour, ...] = (
    (255, 224, 196),
    (244, 204, 172),
    (232, 188, 150),
    (214, 164, 124),
    (190, 138, 100),
    (160, 110, 76),
    (128, 86, 60),
    (104, 70, 52),
)
HAIRS: tuple[Colour, ...] = (
    (40, 30, 28),
    (74, 48, 36),
    (116, 74, 44),
    (168, 110, 58),
    (216, 178, 110),
    (150, 60, 40),
    (150, 150, 156),
    (60, 66, 110),
)
STYLES = ("short", "long", "bob", "bun", "curly", "bald", "fringe")
MOUTH_INSIDE: Colour = (70, 15, 25)
"""The colour behind open lips, the same for everybody: the metrics look for it."""
IRISES: tuple[Colour, ...] = ((70, 100, 140), (82, 112, 92), (96, 66, 44), (50, 44, 44))

MOUTH_DROP = 0.20
"""The mouth's middle below the head's."""
OPEN_HEIGHT, LIP = 0.135, 0.016
"""Height of a mouth wide open between its lips, and a lip's thickness."""
OVERSAMPLED, SHIFT = 4, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is on a picture: everything that stays from frame to frame."""

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
    """What moves: the head's offset and tilt (radians), the mouth's opening and width, the eyelids, all
    but the first two in 0..1."""

    x: float = 0.0
    y: float = 0.0
    tilt: float = 0.0
    open: float = 0.0
    wide: float = 0.5
    closed: float = 0.0


def person_named(name: str) -> Person:
    """The same name is the same person."""
    r = named_generator(f"person|{name}")
    skin = SKINS[r.integers(len(SKINS))]
    return Person(
        skin=_varied(r, skin, 8),
        hair=_varied(r, HAIRS[r.integers(len(HAIRS))], 12),
        lips=_between(skin, (168, 52, 64), r.uniform(0.45, 0.8)),
        iris=IRISES[r.integers(len(IRISES))],
        shirt=_soft_colour(r, 30, 215),
        wall=_wall(r),
        style=STYLES[r.integers(len(STYLES))],
        width=r.uniform(0.265, 0.30),
        height=r.uniform(0.36, 0.395),
        eyes=r.uniform(0.105, 0.125),
        brows=r.uniform(0.105, 0.13),
        nose=r.uniform(0.02, 0.035),
        mouth=r.uniform(0.95, 1.1),
        glasses=bool(r.random() < 0.2),
        beard=bool(r.random() < 0.12),
    )


def draw(person: Person, pose: Pose, side: int) -> Pixels:
    """A picture [side, side, 3], RGB."""
    drawing = _Drawing(side * OVERSAMPLED, person.wall)
    drawing.body(person)
    drawing.head(person, pose)
    return cv2.resize(drawing.canvas, (side, side), interpolation=cv2.INTER_AREA)


class MouthBox(NamedTuple):
    """Where the mouth can be at most, in sides of the picture."""

    left: float
    top: float
    right: float
    bottom: float


def mouth_box(person: Person, pose: Pose) -> MouthBox:
    """The region of a pose's mouth wide open, lips included."""
    x, y = 0.5 + pose.x - pose.tilt * MOUTH_DROP, 0.5 + pose.y + MOUTH_DROP
    half = 0.15 * person.mouth + LIP
    return MouthBox(x - half, y - OPEN_HEIGHT / 2 - 2 * LIP, x + half, y + OPEN_HEIGHT / 2 + 3 * LIP)


class _Drawing:
    def __init__(self, side: int, wall: tuple[Colour, Colour]) -> None:
        self.side = side
        share = np.linspace(0, 1, side, dtype=np.float32)[:, None]
        column = (1 - share) * np.float32(wall[0]) + share * np.float32(wall[1])
        self.canvas = np.ascontiguousarray(np.broadcast_to(column[:, None], (side, side, 3)).astype(np.uint8))
        self.turn, self.centre, self.offset = np.eye(2), np.array((0.5, 0.5)), np.zeros(2)

    def fill(self, points: NDArray[np.floating[Any]], colour: Colour) -> None:
        """A polygon [N, 2] in the head's coordinates."""
        placed = (points - self.centre) @ self.turn + self.centre + self.offset
        scaled = np.round(placed * self.side * 2**SHIFT).astype(np.int32)
        cv2.fillPoly(self.canvas, [scaled], colour, lineType=cv2.LINE_8, shift=SHIFT)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.fill(_oval(x, y, rx, ry), colour)

    def body(self, who: Person) -> None:
        shade = _scaled(who.skin, 0.84)
        if who.style == "long":
            self.fill(_box(0.5 - who.width - 0.05, 0.40, 0.5 + who.width + 0.05, 0.97), who.hair)
        self.oval(0.5, 1.07, 0.47, 0.19, who.shirt)
        self.fill(_box(0.41, 0.76, 0.59, 0.93), shade)
        self.oval(0.5, 0.925, 0.09, 0.035, shade)

    def head(self, who: Person, pose: Pose) -> None:
        cos, sin = np.cos(pose.tilt), np.sin(pose.tilt)
        self.turn = np.array(((cos, sin), (-sin, cos)))
        self.offset = np.array((pose.x, pose.y))
        self._hair_behind(who)
        shade = _scaled(who.skin, 0.88)
        for sign in (-1, 1):
            self.oval(0.5 + sign * who.width, 0.50, 0.035, 0.06, shade)
        chin = 0.035 * pose.open
        self.fill(_face(who.width, who.height, chin), who.skin)
        if who.beard:
            self._beard(who, chin)
        self._mouth(who, pose)
        self._eyes(who, pose)
        self.oval(0.5, 0.545, who.nose, 0.017, shade)
        self._hair_before(who)

    def _hair_behind(self, who: Person) -> None:
        match who.style:
            case "long":
                self.fill(_box(0.5 - who.width - 0.05, 0.35, 0.5 + who.width + 0.05, 0.88), who.hair)
                self.oval(0.5, 0.38, who.width + 0.05, 0.33, who.hair)
            case "bob":
                self.oval(0.5, 0.45, who.width + 0.08, 0.36, who.hair)
            case "bun":
                self.oval(0.5, 0.09, 0.11, 0.09, who.hair)
                self.oval(0.5, 0.40, who.width + 0.025, 0.32, who.hair)
            case "curly":
                for angle in np.linspace(np.pi * 0.95, np.pi * 2.05, 9):
                    x, y = 0.5 + who.width * 1.05 * np.cos(angle), 0.40 + 0.27 * np.sin(angle)
                    self.oval(x, y, 0.10, 0.10, who.hair)
            case "short" | "fringe":
                self.oval(0.5, 0.37, who.width + 0.03, 0.31, who.hair)
            case _:
                pass

    def _hair_before(self, who: Person) -> None:
        top, w = 0.5 - who.height, who.width
        match who.style:
            case "fringe" | "bob":
                self.fill(_cap(w + 0.02, top, 0.345, 0.345), who.hair)
            case "long" | "short":
                self.fill(_cap(w + 0.015, top, 0.36, 0.25), who.hair)
            case "bun":
                self.fill(_cap(w + 0.01, top, 0.27, 0.235), who.hair)
            case "curly":
                self.fill(_cap(w + 0.01, top, 0.27, 0.26), who.hair)
                for share in np.linspace(-0.8, 0.8, 5):
                    self.oval(0.5 + share * w, 0.22 + 0.07 * share**2, 0.075, 0.07, who.hair)
            case _:
                pass

    def _beard(self, who: Person, chin: float) -> None:
        face = _face(who.width, who.height, chin)
        lower = face[face[:, 1] > 0.60]
        self.fill(lower, who.hair)
        self.oval(0.5, 0.60, who.width * 0.82, 0.07, who.skin)
        self.oval(0.5, 0.5 + MOUTH_DROP, 0.17, 0.085, who.skin)

    def _mouth(self, who: Person, pose: Pose) -> None:
        half = who.mouth * (0.085 + 0.055 * pose.wide) * (1 - 0.12 * pose.open)
        gap = OPEN_HEIGHT * pose.open / 2
        y = 0.5 + MOUTH_DROP + 0.25 * gap
        self.oval(0.5, y, half + LIP * 0.6, gap + LIP, who.lips)
        if gap > 0:
            self.oval(0.5, y, half, gap, MOUTH_INSIDE)
        else:
            self.fill(_box(0.5 - half, y - 0.003, 0.5 + half, y + 0.003), _scaled(who.lips, 0.7))

    def _eyes(self, who: Person, pose: Pose) -> None:
        dark = _scaled(who.hair, 0.8) if who.style != "bald" else _scaled(who.skin, 0.45)
        y, opened = 0.445, 1 - pose.closed
        for sign in (-1, 1):
            x = 0.5 + sign * who.eyes
            self.oval(x, y, 0.056, 0.040, _scaled(who.skin, 0.90))
            if opened > 0.15:
                self.oval(x, y, 0.050, 0.034 * opened, (250, 249, 246))
                self.oval(x, y, 0.024, min(0.026, 0.034 * opened), who.iris)
                self.oval(x, y, 0.011, min(0.012, 0.034 * opened), (20, 18, 18))
            else:
                self.fill(_box(x - 0.05, y, x + 0.05, y + 0.010), _scaled(who.skin, 0.6))
            brow = y - who.brows * 0.72
            self.fill(_box(x - 0.055, brow - 0.011, x + 0.055, brow + 0.011), dark)
            if who.glasses:
                self._ring(x, y, 0.078, 0.062)
        if who.glasses:
            self.fill(_box(0.5 - 0.035, y - 0.008, 0.5 + 0.035, y + 0.008), (40, 40, 46))

    def _ring(self, x: float, y: float, rx: float, ry: float) -> None:
        outer, inner = _oval(x, y, rx, ry), _oval(x, y, rx - 0.014, ry - 0.014)
        self.fill(np.concatenate((outer, outer[:1], inner[::-1], inner[-1:])), (40, 40, 46))


_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)


def _oval(x: float, y: float, rx: float, ry: float) -> NDArray[np.floating[Any]]:
    return _CIRCLE * (rx, ry) + (x, y)


def _box(left: float, top: float, right: float, bottom: float) -> NDArray[np.floating[Any]]:
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)))


def _face(width: float, height: float, chin: float) -> NDArray[np.floating[Any]]:
    """Rounder above, longer below; an open mouth lowers the chin."""
    shape = _CIRCLE * (width, height)
    below = shape[:, 1] > 0
    shape[below, 1] *= 1 + chin / height
    shape[:, 0] *= 1 - 0.10 * np.clip(shape[:, 1] / height, 0, 1)
    return shape + 0.5


def _cap(width: float, top: float, side: float, middle: float) -> NDArray[np.floating[Any]]:
    """Hair over the forehead: from the crown down to ``side`` at the temples, ``middle`` between."""
    angles = np.linspace(np.pi, 2 * np.pi, 18)
    over = np.stack((0.5 + width * np.cos(angles), side + (side - top + 0.02) * np.sin(angles)), axis=1)
    under = np.array(((0.5 + width * 0.72, side * 0.96), (0.5, middle), (0.5 - width * 0.72, side * 0.96)))
    return np.concatenate((over, under))


def _scaled(colour: Colour, share: float) -> Colour:
    r, g, b = (min(255, round(share * value)) for value in colour)
    return r, g, b


def _between(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * a + share * b) for a, b in zip(one, other, strict=True))
    return r, g, b


def _varied(r: np.random.Generator, colour: Colour, by: int) -> Colour:
    a, b, c = (int(np.clip(value + r.integers(-by, by + 1), 0, 255)) for value in colour)
    return a, b, c


def _soft_colour(r: np.random.Generator, low: int, high: int) -> Colour:
    drawn = r.integers(low, high, 3)
    a, b, c = (round(float(0.6 * value + 0.4 * drawn.mean())) for value in drawn)
    return a, b, c


def _wall(r: np.random.Generator) -> tuple[Colour, Colour]:
    one = _soft_colour(r, 70, 245)
    return one, _between(one, _soft_colour(r, 50, 245), 0.5)
