"""Draw people in any pose at any size (needs OpenCV). Coordinates are in picture sides."""

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
    Person,
    Pixels,
    Pose,
)

OVERSAMPLING, SHIFT_BITS = 4, 4


def draw(person: Person, pose: Pose, side: int) -> Pixels:
    """A picture [side, side, 3], RGB."""
    drawing = _Drawing(side * OVERSAMPLING, person.wall)
    drawing.draw_body(person)
    drawing.draw_head(person, pose)
    return cv2.resize(drawing.canvas, (side, side), interpolation=cv2.INTER_AREA)


class _Drawing:
    def __init__(self, side: int, wall: tuple[Colour, Colour]) -> None:
        self.side = side
        share = np.linspace(0, 1, side, dtype=np.float32)[:, None]
        column = (1 - share) * np.float32(wall[0]) + share * np.float32(wall[1])
        self.canvas = np.ascontiguousarray(np.broadcast_to(column[:, None], (side, side, 3)).astype(np.uint8))
        self.rotation, self.centre, self.offset = np.eye(2), np.array((0.5, 0.5)), np.zeros(2)

    def fill(self, points: NDArray[np.floating[Any]], colour: Colour) -> None:
        """Fill a polygon [N, 2] in the head's coordinates."""
        placed = (points - self.centre) @ self.rotation + self.centre + self.offset
        scaled = np.round(placed * self.side * 2**SHIFT_BITS).astype(np.int32)
        cv2.fillPoly(self.canvas, [scaled], colour, lineType=cv2.LINE_8, shift=SHIFT_BITS)

    def fill_oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.fill(_oval(x, y, rx, ry), colour)

    def draw_body(self, person: Person) -> None:
        shade = _shade(person.skin, 0.84)
        if person.style == "long":
            self.fill(_box(0.5 - person.width - 0.05, 0.40, 0.5 + person.width + 0.05, 0.97), person.hair)
        self.fill_oval(0.5, 1.07, 0.47, 0.19, person.shirt)
        self.fill(_box(0.41, 0.76, 0.59, 0.93), shade)
        self.fill_oval(0.5, 0.925, 0.09, 0.035, shade)

    def draw_head(self, person: Person, pose: Pose) -> None:
        cos, sin = np.cos(pose.tilt), np.sin(pose.tilt)
        self.rotation = np.array(((cos, sin), (-sin, cos)))
        self.offset = np.array((pose.x, pose.y))
        self._draw_hair_behind(person)
        shade = _shade(person.skin, 0.88)
        for sign in (-1, 1):
            self.fill_oval(0.5 + sign * person.width, 0.50, 0.035, 0.06, shade)
        chin = 0.035 * pose.open
        self.fill(_face(person.width, person.height, chin), person.skin)
        if person.beard:
            self._draw_beard(person, chin)
        self._draw_mouth(person, pose)
        self._draw_eyes(person, pose)
        self.fill_oval(0.5, 0.545, person.nose, 0.017, shade)
        self._draw_hair_in_front(person)

    def _draw_hair_behind(self, person: Person) -> None:
        match person.style:
            case "long":
                self.fill(_box(0.5 - person.width - 0.05, 0.35, 0.5 + person.width + 0.05, 0.88), person.hair)
                self.fill_oval(0.5, 0.38, person.width + 0.05, 0.33, person.hair)
            case "bob":
                self.fill_oval(0.5, 0.45, person.width + 0.08, 0.36, person.hair)
            case "bun":
                self.fill_oval(0.5, 0.09, 0.11, 0.09, person.hair)
                self.fill_oval(0.5, 0.40, person.width + 0.025, 0.32, person.hair)
            case "curly":
                for angle in np.linspace(np.pi * 0.95, np.pi * 2.05, 9):
                    x, y = 0.5 + person.width * 1.05 * np.cos(angle), 0.40 + 0.27 * np.sin(angle)
                    self.fill_oval(x, y, 0.10, 0.10, person.hair)
            case "short" | "fringe":
                self.fill_oval(0.5, 0.37, person.width + 0.03, 0.31, person.hair)
            case _:
                pass

    def _draw_hair_in_front(self, person: Person) -> None:
        top, w = 0.5 - person.height, person.width
        match person.style:
            case "fringe" | "bob":
                self.fill(_cap(w + 0.02, top, 0.345, 0.345), person.hair)
            case "long" | "short":
                self.fill(_cap(w + 0.015, top, 0.36, 0.25), person.hair)
            case "bun":
                self.fill(_cap(w + 0.01, top, 0.27, 0.235), person.hair)
            case "curly":
                self.fill(_cap(w + 0.01, top, 0.27, 0.26), person.hair)
                for share in np.linspace(-0.8, 0.8, 5):
                    self.fill_oval(0.5 + share * w, 0.22 + 0.07 * share**2, 0.075, 0.07, person.hair)
            case _:
                pass

    def _draw_beard(self, person: Person, chin: float) -> None:
        face = _face(person.width, person.height, chin)
        lower = face[face[:, 1] > 0.60]
        self.fill(lower, person.hair)
        self.fill_oval(0.5, 0.60, person.width * 0.82, 0.07, person.skin)
        self.fill_oval(0.5, 0.5 + MOUTH_BELOW_CENTRE, 0.17, 0.085, person.skin)

    def _draw_mouth(self, person: Person, pose: Pose) -> None:
        half = person.mouth * (0.085 + 0.055 * pose.wide) * (1 - 0.12 * pose.open)
        gap = MAX_OPEN_HEIGHT * pose.open / 2
        y = 0.5 + MOUTH_BELOW_CENTRE + 0.25 * gap
        self.fill_oval(0.5, y, half + LIP_THICKNESS * 0.6, gap + LIP_THICKNESS, person.lips)
        if gap > 0:
            self.fill_oval(0.5, y, half, gap, MOUTH_INSIDE)
        else:
            self.fill(_box(0.5 - half, y - 0.003, 0.5 + half, y + 0.003), _shade(person.lips, 0.7))

    def _draw_eyes(self, person: Person, pose: Pose) -> None:
        dark = _shade(person.hair, 0.8) if person.style != "bald" else _shade(person.skin, 0.45)
        y, opened = 0.445, 1 - pose.closed
        for sign in (-1, 1):
            x = 0.5 + sign * person.eyes
            self.fill_oval(x, y, 0.056, 0.040, _shade(person.skin, 0.90))
            if opened > 0.15:
                self.fill_oval(x, y, 0.050, 0.034 * opened, (250, 249, 246))
                self.fill_oval(x, y, 0.024, min(0.026, 0.034 * opened), person.iris)
                self.fill_oval(x, y, 0.011, min(0.012, 0.034 * opened), (20, 18, 18))
            else:
                self.fill(_box(x - 0.05, y, x + 0.05, y + 0.010), _shade(person.skin, 0.6))
            brow = y - person.brows * 0.72
            self.fill(_box(x - 0.055, brow - 0.011, x + 0.055, brow + 0.011), dark)
            if person.glasses:
                self._draw_ring(x, y, 0.078, 0.062)
        if person.glasses:
            self.fill(_box(0.5 - 0.035, y - 0.008, 0.5 + 0.035, y + 0.008), (40, 40, 46))

    def _draw_ring(self, x: float, y: float, rx: float, ry: float) -> None:
        outer, inner = _oval(x, y, rx, ry), _oval(x, y, rx - 0.014, ry - 0.014)
        self.fill(np.concatenate((outer, outer[:1], inner[::-1], inner[-1:])), (40, 40, 46))


_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)


def _oval(x: float, y: float, rx: float, ry: float) -> NDArray[np.floating[Any]]:
    return _CIRCLE * (rx, ry) + (x, y)


def _box(left: float, top: float, right: float, bottom: float) -> NDArray[np.floating[Any]]:
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)))


def _face(width: float, height: float, chin: float) -> NDArray[np.floating[Any]]:
    """Rounder at the top, longer at the bottom; an open mouth lowers the chin by ``chin``."""
    shape = _CIRCLE * (width, height)
    below = shape[:, 1] > 0
    shape[below, 1] *= 1 + chin / height
    shape[:, 0] *= 1 - 0.10 * np.clip(shape[:, 1] / height, 0, 1)
    return shape + 0.5


def _cap(width: float, top: float, side: float, middle: float) -> NDArray[np.floating[Any]]:
    """Hair over the forehead, from the crown down to ``side`` at the temples and ``middle`` between them."""
    angles = np.linspace(np.pi, 2 * np.pi, 18)
    over = np.stack((0.5 + width * np.cos(angles), side + (side - top + 0.02) * np.sin(angles)), axis=1)
    under = np.array(((0.5 + width * 0.72, side * 0.96), (0.5, middle), (0.5 - width * 0.72, side * 0.96)))
    return np.concatenate((over, under))


def _shade(colour: Colour, share: float) -> Colour:
    r, g, b = (min(255, round(share * value)) for value in colour)
    return r, g, b
