"""How a drawn person moves: the head sways, the eyes blink, the mouth does what it is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

from .faces import Pose

FPS = 25
SWAY, TILT = 0.016, 0.035
BLINK = (0.5, 1.0, 1.0, 0.5)

LIGHTS: dict[str, tuple[float, float, float]] = {
    "warm": (1.0, 0.82, 0.55),
    "blue": (0.55, 0.75, 1.0),
    "green": (0.62, 1.0, 0.62),
    "dim": (0.55, 0.55, 0.6),
}
"""The lights that a prompt can ask for, as shares of each colour that are left."""


def poses(
    name: str, opening: Sequence[float], width: Sequence[float], first: Pose | None = None
) -> list[Pose]:
    """A pose a frame. With ``first`` the head starts where that pose has it."""
    r = make_generator(f"motion|{name}")
    frames = len(opening)
    x, y, tilt = (_sway(r, frames) * scale for scale in (SWAY, SWAY * 0.7, TILT))
    if first is not None:
        fade = np.exp(-np.arange(frames) / FPS)
        x, y, tilt = (
            path + (start - path[0]) * fade
            for path, start in zip((x, y, tilt), (first.x, first.y, first.tilt), strict=True)
        )
    closed = _blinks(r, frames)
    columns = zip(x, y, tilt, opening, width, closed, strict=True)
    return [Pose(*(float(value) for value in row)) for row in columns]


def wandering(name: str, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Openings and widths of a mouth that follows no speech: for who learns only what mouths look like."""
    r = make_generator(f"wandering|{name}")
    knots = np.arange(0, frames + 4, 3)
    opening = np.interp(np.arange(frames), knots, r.random(len(knots)) * (r.random(len(knots)) > 0.25))
    width = np.interp(np.arange(frames), knots, r.random(len(knots)))
    return opening.astype(np.float32), width.astype(np.float32)


def _sway(r: np.random.Generator, frames: int) -> NDArray[np.float64]:
    seconds = np.arange(frames) / FPS
    speeds, phases = r.uniform(0.08, 0.5, 3), r.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * speeds[:, None] * seconds[None] + phases[:, None])
    return (waves * r.uniform(0.3, 0.7, 3)[:, None]).sum(axis=0)


def _blinks(r: np.random.Generator, frames: int) -> NDArray[np.float64]:
    closed = np.zeros(frames + len(BLINK))
    at = int(r.integers(0, 4 * FPS))
    while at < frames:
        closed[at : at + len(BLINK)] = BLINK
        at += int(r.integers(2 * FPS, 5 * FPS))
    return closed[:frames]
