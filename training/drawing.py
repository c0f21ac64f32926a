"""Draw people at any size in any pose (needs OpenCV)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .faces import (
    LIP_THICKNESS,
    MAX_OPEN_HEIGHT,
    MOUTH_BELOW_CENTRE,
    MOUTH_INSIDE,
    Colour,
    Head,
    Person,
    Pixels,
    Place,
    Points,
    Pose,
)

OVERSAMPLING, SHIFT_BITS = 3, 4
NOSE_LENGTH = 1.22
"""Distance of its tip from the head's middle, on a globe of 1."""
WINDOW_LONGITUDE, JAW_LONGITUDE = np.radians(78), np.radians(104)
"""How far the face reaches around the head, above the ear and below it."""
HAIRLINES = {
    "short": (-0.37, -0.66),
    "long": (-0.37, -0.66),
    "fringe": (-0.40, -0.40),
    "bob": (-0.40, -0.40),
    "bun": (-0.58, -0.70),
    "curly": (-0.56, -0.62),
}
"""Height of the hair's edge on the globe at the temples and in the middle; -1 is the crown."""
HAT_EDGE, BRIM_LONGITUDE, BRIM_LENGTH = -0.45, np.radians(52), 1.42
FRAME: Colour = (40, 40, 46)


class Canvas:
    """Pixels that are drawn ``OVERSAMPLING`` times as large. Coordinates are in picture heights."""

    def __init__(self, height: int, width: int, ground: Pixels | None = None) -> None:
        self.height, self.width = height, width
        shape = (height * OVERSAMPLING, width * OVERSAMPLING, 3)
        self.pixels = np.zeros(shape, np.uint8) if ground is None else ground.copy()

    @property
    def aspect(self) -> float:
        return self.width / self.height

    def fill(self, points: NDArray[np.floating[Any]], colour: Colour) -> None:
        """Fill a polygon [N, 2]."""
        scaled = np.round(points * self.pixels.shape[0] * 2**SHIFT_BITS).astype(np.int32)
        cv2.fillPoly(self.pixels, [scaled], colour, lineType=cv2.LINE_8, shift=SHIFT_BITS)

    def fill_oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.fill(oval(x, y, rx, ry), colour)

    def shade_down(self, top: Colour, bottom: Colour) -> None:
        """Fill everything from one colour above to another below."""
        share = np.linspace(0, 1, len(self.pixels), dtype=np.float32)[:, None, None]
        self.pixels[:] = ((1 - share) * np.float32(top) + share * np.float32(bottom)).astype(np.uint8)

    def reduce(self) -> Pixels:
        """The picture [height, width, 3], RGB."""
        return cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)


def draw_person(canvas: Canvas, person: Person, pose: Pose, place: Place) -> None:
    _Figure(canvas, Head(person, pose, place)).draw()


class _Figure:
    """A person on a canvas. Points "on the face" are in head units, as seen from the front."""

    def __init__(self, canvas: Canvas, head: Head) -> None:
        self.canvas, self.head = canvas, head
        self.person, self.pose = head.person, head.pose
        self.body = Head(self.person, Pose(), head.place)

    def draw(self) -> None:
        self._draw_hair_behind()
        self._draw_body()
        self._draw_skull()
        if self.person.beard:
            self._draw_beard()
        self._draw_mouth()
        self._draw_eyes()
        self._draw_nose()
        self._draw_ears(front=True)
        if self.person.style == "curly" and self.person.hat is None:
            self._draw_curls()
        if self.person.hat is not None:
            self._draw_hat(self.person.hat)

    def fill(self, points: Points, colour: Colour) -> None:
        """Head units that roll with the head, but do not turn."""
        self.canvas.fill(self.head.stand(points), colour)

    def fill_face(self, points: Points, colour: Colour) -> None:
        self.canvas.fill(self.head.project(self.head.lift(points)), colour)

    def fill_globe(self, directions: Points, colour: Colour) -> None:
        self.canvas.fill(self.head.project(directions), colour)

    def _draw_body(self) -> None:
        person, stand = self.person, self.body.stand
        skin = shade(person.skin, 0.84)
        neck = self.head.stand(np.array(((-0.09, 0.2), (0.09, 0.2))))
        foot = stand(np.array(((0.1, 0.44), (-0.1, 0.44))))
        self.canvas.fill(stand(oval(0, 0.57, 0.47, 0.19)), person.shirt)
        self.canvas.fill(stand(box(-0.47, 0.57, 0.47, 2.0)), person.shirt)
        self.canvas.fill(np.concatenate((neck, foot)), skin)
        self.canvas.fill(stand(oval(0, 0.425, 0.1, 0.035)), skin)

    def _draw_hair_behind(self) -> None:
        w, hair, back = self.person.width, self.person.hair, -np.sin(self.pose.yaw)
        match self.person.style:
            case "long":
                self.fill(box(-w - 0.05, -0.15, w + 0.05, 0.44), hair)
                self.fill(oval(0, -0.12, w + 0.05, 0.33), hair)
            case "bob":
                self.fill(oval(0.02 * back, -0.05, w + 0.08, 0.36), hair)
            case "bun":
                self.fill(oval(0.22 * back, -0.41, 0.11, 0.09), hair)
                self.fill(oval(0, -0.10, w + 0.025, 0.32), hair)
            case "curly":
                for angle in np.linspace(np.pi * 0.95, np.pi * 2.05, 9):
                    self.fill(oval(w * 1.05 * np.cos(angle), -0.1 + 0.27 * np.sin(angle), 0.1, 0.1), hair)
            case "short" | "fringe":
                self.fill(oval(0.02 * back, -0.13, w + 0.03, 0.31), hair)
            case _:
                pass
        self._draw_ears(front=False)

    def _draw_skull(self) -> None:
        """The outline in the hair's colour, then the face, where there is no hair."""
        person, hairline = self.person, HAIRLINES.get(self.person.style)
        outline = np.stack((_CIRCLE[:, 0], _CIRCLE[:, 1], np.zeros(len(_CIRCLE))), axis=1)
        flat = Head(person, self.pose._replace(yaw=0.0, pitch=0.0), self.head.place)
        self.canvas.fill(flat.project(outline), person.skin if hairline is None else person.hair)
        if hairline is None:
            return
        jaw = outline[outline[:, 1] > 0.4]
        self.canvas.fill(flat.project(jaw[np.argsort(np.arctan2(jaw[:, 1], jaw[:, 0]))]), person.skin)
        temple, middle = hairline
        longitude = np.linspace(-WINDOW_LONGITUDE, WINDOW_LONGITUDE, 25)
        top = _globe(longitude, middle + (temple - middle) * np.abs(np.sin(longitude)) ** 1.5)
        down = np.linspace(0, 1, 12)
        side = WINDOW_LONGITUDE + (JAW_LONGITUDE - WINDOW_LONGITUDE) * down.clip(0, 0.4) / 0.4
        height = temple + (0.995 - temple) * down
        right, left = _globe(side, height), _globe(-side, height)
        self.fill_globe(np.concatenate((top, right, left[::-1])), person.skin)

    def _draw_ears(self, *, front: bool) -> None:
        """An ear that is turned to the viewer is drawn before the head, another one behind it."""
        for sign in (-1.0, 1.0):
            (x, y, z), *_ = self.head.turn(np.array(((sign, 0.02, 0.0),)))
            if (z > 0.08) == front and z > -0.3:
                w = self.person.width
                squeeze = 0.035 + 0.02 * max(0.0, float(z))
                ear = oval(float(x) * w, float(y) * self.person.height, squeeze, 0.06)
                self.fill(ear, shade(self.person.skin, 0.86))

    def _draw_curls(self) -> None:
        longitude = np.linspace(-1.2, 1.2, 5)
        for direction in _globe(longitude, np.full(5, -0.70)):
            x, y, _ = self.head.turn(direction[None])[0]
            w, h = self.person.width, self.person.height
            self.fill(oval(float(x) * w, float(y) * h, 0.075, 0.07), self.person.hair)

    def _draw_beard(self) -> None:
        longitude, down = np.linspace(-1.25, 1.25, 25), np.linspace(0.3, 0.99, 8)
        top = _globe(longitude, np.full(25, 0.28))
        right, left = _globe(1.25 + 0.3 * (down - 0.3), down), _globe(-1.25 - 0.3 * (down - 0.3), down)
        self.fill_globe(np.concatenate((top, right, left[::-1])), self.person.hair)
        self.fill_face(oval(0, 0.10, self.person.width * 0.82, 0.07), self.person.skin)
        self.fill_face(oval(0, MOUTH_BELOW_CENTRE, 0.17, 0.085), self.person.skin)

    def _draw_mouth(self) -> None:
        person, pose = self.person, self.pose
        half = person.mouth * (0.085 + 0.055 * pose.wide) * (1 - 0.12 * pose.open)
        gap = MAX_OPEN_HEIGHT * pose.open / 2
        y = MOUTH_BELOW_CENTRE + 0.25 * gap
        self.fill_face(oval(0, y, half + LIP_THICKNESS * 0.6, gap + LIP_THICKNESS), person.lips)
        if gap > 0:
            self.fill_face(oval(0, y, half, gap), MOUTH_INSIDE)
        else:
            self.fill_face(oval(0, y, half, 0.003), shade(person.lips, 0.7))

    def _draw_eyes(self) -> None:
        person, opened, y = self.person, 1 - self.pose.closed, -0.055
        dark = shade(person.skin, 0.45) if person.style == "bald" else shade(person.hair, 0.8)
        for sign in (-1, 1):
            x = sign * person.eyes
            self.fill_face(oval(x, y, 0.056, 0.040), shade(person.skin, 0.90))
            if opened > 0.15:
                self.fill_face(oval(x, y, 0.050, 0.034 * opened), (250, 249, 246))
                self.fill_face(oval(x, y, 0.024, min(0.026, 0.034 * opened)), person.iris)
                self.fill_face(oval(x, y, 0.011, min(0.012, 0.034 * opened)), (20, 18, 18))
            else:
                self.fill_face(box(x - 0.05, y, x + 0.05, y + 0.010), shade(person.skin, 0.6))
            brow = y - person.brows * 0.72
            self.fill_face(box(x - 0.055, brow - 0.011, x + 0.055, brow + 0.011), dark)
            if person.glasses:
                outer, inner = oval(x, y, 0.078, 0.062), oval(x, y, 0.064, 0.048)
                self.fill_face(np.concatenate((outer, outer[:1], inner[::-1], inner[-1:])), FRAME)
        if person.glasses:
            self.fill_face(box(-0.035, y - 0.008, 0.035, y + 0.008), FRAME)

    def _draw_nose(self) -> None:
        """Its tip stands out: a turned face shows it beyond the cheek."""
        base = self.head.lift(oval(0, 0.045, self.person.nose, 0.017))
        tip = NOSE_LENGTH * self.head.lift(np.array(((0.0, 0.035),)))
        points = self.head.project(np.concatenate((base, tip)))
        hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
        self.canvas.fill(hull, shade(self.person.skin, 0.88))

    def _draw_hat(self, colour: Colour) -> None:
        longitude = np.linspace(-np.pi / 2, np.pi / 2, 25)
        edge = self.head.project(1.03 * _globe(longitude, np.full(25, HAT_EDGE)))
        angles = np.linspace(2 * np.pi - 0.45, np.pi + 0.45, 18)
        w, h = self.person.width, self.person.height
        crown = self.head.stand(np.stack((1.2 * w * np.cos(angles), 1.14 * h * np.sin(angles)), axis=1))
        self.canvas.fill(np.concatenate((edge, crown)), colour)
        longitude = np.linspace(-BRIM_LONGITUDE, BRIM_LONGITUDE, 15)
        inner = _globe(longitude, np.full(15, HAT_EDGE))
        outer = inner * np.array((BRIM_LENGTH, 0.86, BRIM_LENGTH))
        self.fill_globe(np.concatenate((inner, outer[::-1])), shade(colour, 0.75))


_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    return _CIRCLE * (rx, ry) + (x, y)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle, with points between its corners, so that it bends around a head."""
    across, down = np.linspace(left, right, 6), np.linspace(top, bottom, 4)
    sides = [
        *((x, top) for x in across),
        *((right, y) for y in down[1:]),
        *((x, bottom) for x in across[::-1][1:]),
        *((left, y) for y in down[::-1][1:-1]),
    ]
    return np.array(sides)


def _globe(longitude: Points, height: Points) -> Points:
    """Directions [N, 3] of longitudes (radians, 0 in front) and heights (-1 crown, 1 chin)."""
    ring = np.sqrt((1 - height**2).clip(0))
    return np.stack((np.sin(longitude) * ring, height, np.cos(longitude) * ring), axis=1)


def shade(colour: Colour, share: float) -> Colour:
    r, g, b = (min(255, round(share * value)) for value in colour)
    return r, g, b
