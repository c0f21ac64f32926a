"""Drawings of people in any pose at any size (needs OpenCV); places are shares of the picture's side."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .faces import LIP, MOUTH_DROP, MOUTH_INSIDE, OPEN_HEIGHT, Colour, Person, Pixels, Pose

OVERSAMPLED, SHIFT = 4, 4


def draw(person: Person, pose: Pose, side: int) -> Pixels:
    """A picture [side, side, 3], RGB."""
    drawing = _Drawing(side * OVERSAMPLED, person.wall)
    drawing.body(person)
    drawing.head(person, pose)
    return cv2.resize(drawing.canvas, (side, side), interpolation=cv2.INTER_AREA)


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
