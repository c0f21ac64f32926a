"""Drawn people: a person, decided by a name, a pose, and a place in the picture.

Lengths of a face are in head units: a head is about 0.56 wide and 0.75 high. A :class:`Place` scales them to
picture heights; (0, 0) is the picture's upper left corner, (1.5, 1) the lower right of a 3:2 picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Points = NDArray[np.floating]

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
HAT_SHARE, GLASSES_SHARE, BEARD_SHARE = 0.15, 0.2, 0.12
MOUTH_INSIDE: Colour = (70, 15, 25)
"""The same for every person: the metrics look for it."""
IRIS_COLOURS: tuple[Colour, ...] = ((70, 100, 140), (82, 112, 92), (96, 66, 44), (50, 44, 44))

MOUTH_BELOW_CENTRE = 0.20
"""From the head's centre to the mouth's."""
MAX_OPEN_HEIGHT, LIP_THICKNESS = 0.135, 0.016
"""Height between the lips of a wide open mouth, and a lip's thickness."""
CHIN_DROP, CHIN_TAPER = 0.035, 0.10
"""How far an open mouth lowers the chin; how much narrower the chin is than the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is constant from frame to frame."""

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    shirt: Colour
    style: str
    hat: Colour | None
    width: float
    height: float
    eyes: float
    brows: float
    nose: float
    mouth: float
    glasses: bool
    beard: bool


class Pose(NamedTuple):
    """What moves: the head's offset (head units), roll, yaw and pitch (radians; positive yaw looks to the
    picture's right, positive pitch up); the mouth's opening and width and how closed the eyes are, 0..1."""

    x: float = 0.0
    y: float = 0.0
    tilt: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    open: float = 0.0
    wide: float = 0.5
    closed: float = 0.0


class Place(NamedTuple):
    """The middle of a resting head, and the size of a head unit, in picture heights."""

    x: float = 0.75
    y: float = 0.5
    size: float = 1.0


def make_person(name: str) -> Person:
    """The same name gives the same person."""
    r = make_generator(f"person|{name}")
    skin = SKIN_COLOURS[r.integers(len(SKIN_COLOURS))]
    return Person(
        skin=vary(r, skin, 8),
        hair=vary(r, HAIR_COLOURS[r.integers(len(HAIR_COLOURS))], 12),
        lips=blend(skin, (168, 52, 64), r.uniform(0.45, 0.8)),
        iris=IRIS_COLOURS[r.integers(len(IRIS_COLOURS))],
        shirt=draw_colour(r, 30, 215),
        style=HAIR_STYLES[r.integers(len(HAIR_STYLES))],
        hat=draw_colour(r, 30, 225) if r.random() < HAT_SHARE else None,
        width=r.uniform(0.265, 0.30),
        height=r.uniform(0.36, 0.395),
        eyes=r.uniform(0.105, 0.125),
        brows=r.uniform(0.105, 0.13),
        nose=r.uniform(0.02, 0.035),
        mouth=r.uniform(0.95, 1.1),
        glasses=bool(r.random() < GLASSES_SHARE),
        beard=bool(r.random() < BEARD_SHARE),
    )


@dataclass(frozen=True, slots=True)
class Head:
    """Where points of a person's head are in the picture: the head is a globe that turns inside an outline
    that does not."""

    person: Person
    pose: Pose
    place: Place

    def project(self, directions: Points) -> Points:
        """Directions from the head's middle [N, 3] (right, down, to the front; length 1 on the globe) ->
        places [N, 2] in picture heights. What is behind moves to the outline."""
        x, y, z = self.turn(directions).T
        hidden = z < 0
        length = np.maximum(np.hypot(x, y), 1e-6)
        x, y = (np.where(hidden, axis / length, axis) for axis in (x, y))
        below = y.clip(0)
        px = x * self.person.width * (1 - CHIN_TAPER * below.clip(0, 1))
        py = y * self.person.height + np.where(y > 0, y * CHIN_DROP * self.pose.open, 0)
        return self.stand(np.stack((px, py), axis=1))

    def turn(self, directions: Points) -> Points:
        """Directions [N, 3] after the pose's yaw and pitch."""
        x, y, z = directions.T
        sin, cos = np.sin(self.pose.yaw), np.cos(self.pose.yaw)
        x, z = x * cos + z * sin, z * cos - x * sin
        sin, cos = np.sin(self.pose.pitch), np.cos(self.pose.pitch)
        y, z = y * cos - z * sin, z * cos + y * sin
        return np.stack((x, y, z), axis=1)

    def lift(self, points: Points) -> Points:
        """Points [N, 2] of the face seen from the front, in head units from its middle -> directions."""
        x, y = points[:, 0] / self.person.width, points[:, 1] / self.person.height
        z = np.sqrt((1 - x**2 - y**2).clip(0))
        return np.stack((x, y, z), axis=1)

    def stand(self, points: Points) -> Points:
        """Points [N, 2] in head units from the head's middle, rolled and placed in the picture."""
        cos, sin = np.cos(self.pose.tilt), np.sin(self.pose.tilt)
        rolled = points @ np.array(((cos, sin), (-sin, cos)))
        middle = (self.place.x, self.place.y) + self.place.size * np.array((self.pose.x, self.pose.y))
        return middle + self.place.size * rolled


class MouthBox(NamedTuple):
    """In picture heights."""

    left: float
    top: float
    right: float
    bottom: float


def locate_mouth(person: Person, pose: Pose, place: Place) -> MouthBox:
    """The region of a pose's wide open mouth, lips included."""
    half, reach = 0.15 * person.mouth + LIP_THICKNESS, MAX_OPEN_HEIGHT / 2 + 2 * LIP_THICKNESS
    y = MOUTH_BELOW_CENTRE
    corners = np.array([(u, y + v) for u in (-half, 0, half) for v in (-reach, 0, reach + LIP_THICKNESS)])
    head = Head(person, pose._replace(open=1.0), place)
    points = head.project(head.lift(corners))
    return MouthBox(*(float(value) for value in (*points.min(axis=0), *points.max(axis=0))))


def locate_head(person: Person, pose: Pose, place: Place) -> MouthBox:
    """The extent of the head's outline."""
    middle = (place.x + place.size * pose.x, place.y + place.size * pose.y)
    rx, ry = place.size * person.width, place.size * person.height
    return MouthBox(middle[0] - rx, middle[1] - ry, middle[0] + rx, middle[1] + ry)


def blend(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round((1 - share) * a + share * b) for a, b in zip(one, other, strict=True))
    return r, g, b


def vary(r: np.random.Generator, colour: Colour, by: int) -> Colour:
    a, b, c = (int(np.clip(value + r.integers(-by, by + 1), 0, 255)) for value in colour)
    return a, b, c


def draw_colour(r: np.random.Generator, low: int, high: int) -> Colour:
    channels = r.integers(low, high, 3)
    a, b, c = (round(float(0.6 * value + 0.4 * channels.mean())) for value in channels)
    return a, b, c
