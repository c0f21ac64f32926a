"""Things around drawn people: what they hold, and what moves before and behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hallo3.noise import make_generator

from .drawing import Canvas, box, shade
from .faces import Colour, Person, Place
from .grounds import FPS

CUP: Colour = (226, 84, 40)
PHONE, SCREEN = (30, 34, 46), (110, 226, 240)
BALLOON: Colour = (236, 60, 170)
BALL: Colour = (250, 180, 20)
BIRD: Colour = (44, 44, 60)
BALL_SPEED, BIRD_SPEED = 0.3, 0.32
"""Picture heights per second."""
BOB_SECONDS, BALLOON_SECONDS = 1.8, 3.0
BEHIND = ("balloon", "bird")
"""Drawn before the people."""


class Holder(NamedTuple):
    person: Person
    place: Place


def draw_thing(canvas: Canvas, kind: str, name: str, holder: Holder, frame: float) -> None:
    """One of ``THINGS``; ``name`` decides its place, ``frame`` how far it has moved."""
    THINGS[kind](canvas, make_generator(f"{kind}|{name}"), holder, frame / FPS)


def _hold(
    canvas: Canvas, r: np.random.Generator, side: int, holder: Holder, seconds: float
) -> tuple[float, float, float]:
    """Draw a raised hand left (-1) or right (1) of the chest; its middle, and the size of a head unit."""
    size = holder.place.size
    bob = 0.02 * size * np.sin(2 * np.pi * seconds / BOB_SECONDS + r.uniform(0, 6))
    x = holder.place.x + side * size * 0.43
    y = min(0.86, holder.place.y + 0.36 * size) + bob
    sleeve = (
        (x - 0.06 * size, y + 0.05),
        (x + 0.06 * size, y + 0.05),
        (x + 0.1 * size, 1.1),
        (x - 0.1 * size, 1.1),
    )
    canvas.fill(np.array(sleeve), shade(holder.person.shirt, 0.86))
    canvas.fill_oval(x, y + 0.03 * size, 0.075 * size, 0.06 * size, shade(holder.person.skin, 0.94))
    return float(x), float(y), float(size)


def _draw_cup(canvas: Canvas, r: np.random.Generator, holder: Holder, seconds: float) -> None:
    x, y, size = _hold(canvas, r, -1, holder, seconds)
    canvas.fill_oval(x + 0.09 * size, y - 0.06 * size, 0.05 * size, 0.05 * size, shade(CUP, 0.8))
    cup = ((x - 0.09, y - 0.15), (x + 0.09, y - 0.15), (x + 0.07, y + 0.03), (x - 0.07, y + 0.03))
    canvas.fill((np.array(cup) - (x, y)) * (size, size) + (x, y), CUP)
    canvas.fill_oval(x, y - 0.15 * size, 0.09 * size, 0.022 * size, shade(CUP, 0.55))


def _draw_phone(canvas: Canvas, r: np.random.Generator, holder: Holder, seconds: float) -> None:
    x, y, size = _hold(canvas, r, 1, holder, seconds)
    canvas.fill(box(x - 0.075 * size, y - 0.22 * size, x + 0.075 * size, y + 0.03 * size), PHONE)
    canvas.fill(box(x - 0.058 * size, y - 0.195 * size, x + 0.058 * size, y + 0.005 * size), SCREEN)


def _draw_balloon(canvas: Canvas, r: np.random.Generator, holder: Holder, seconds: float) -> None:
    """On a string beside the head; it swings."""
    side = -1 if holder.place.x > canvas.aspect / 2 else 1
    side = side if abs(holder.place.x - canvas.aspect / 2) > 0.15 else r.choice((-1, 1))
    x0 = holder.place.x + side * (0.33 * holder.place.size + 0.19)
    swing = 0.06 * np.sin(2 * np.pi * seconds / BALLOON_SECONDS + r.uniform(0, 6))
    x, y = x0 + swing, 0.2 + 0.02 * np.cos(2 * np.pi * seconds / BALLOON_SECONDS)
    string = ((x - 0.005, y + 0.1), (x + 0.005, y + 0.1), (x0 + 0.005, 1.0), (x0 - 0.005, 1.0))
    canvas.fill(np.array(string), (90, 90, 96))
    canvas.fill_oval(x, y, 0.085, 0.105, BALLOON)


def _draw_bird(canvas: Canvas, r: np.random.Generator, _: Holder, seconds: float) -> None:
    """Birds cross the picture to the left, behind the head."""
    spacing = (canvas.aspect + 0.5) / 2
    start = r.uniform(0, spacing)
    for index in range(2):
        x = canvas.aspect + 0.2 - (start + index * spacing + BIRD_SPEED * seconds) % (2 * spacing)
        y = 0.12 + 0.05 * index
        lift = 0.05 * np.sin(2 * np.pi * 2.5 * seconds + index)
        for sign in (-1, 1):
            wing = ((x, y), (x + sign * 0.09, y - lift - 0.015), (x + sign * 0.02, y + 0.03))
            canvas.fill(np.array(wing), BIRD)
        canvas.fill_oval(x, y + 0.008, 0.03, 0.02, BIRD)


def _draw_ball(canvas: Canvas, r: np.random.Generator, _: Holder, seconds: float) -> None:
    """A ball rolls to the right, before the people, and comes again."""
    span = canvas.aspect + 0.5
    x = (r.uniform(0, span) + BALL_SPEED * seconds) % span - 0.25
    canvas.fill_oval(x, 0.88, 0.105, 0.105, BALL)
    turn = seconds * BALL_SPEED / 0.105
    canvas.fill_oval(x + 0.055 * np.cos(turn), 0.88 + 0.055 * np.sin(turn), 0.034, 0.034, shade(BALL, 0.7))


Draw = Callable[[Canvas, np.random.Generator, Holder, float], None]
THINGS: dict[str, Draw] = {
    "cup": _draw_cup,
    "phone": _draw_phone,
    "balloon": _draw_balloon,
    "bird": _draw_bird,
    "ball": _draw_ball,
}
