"""How a drawn person moves: the head sways, the eyes blink, the mouth follows given openings and widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

from .faces import Pose

FPS = 25
SWAY_SIDES, TILT_RADIANS = 0.016, 0.035
BLINK_CLOSURE = (0.5, 1.0, 1.0, 0.5)
LIGHTS: dict[str, tuple[float, float, float]] = {
    "warm": (1.0, 0.82, 0.55),
    "blue": (0.55, 0.75, 1.0),
    "green": (0.62, 1.0, 0.62),
    "dim": (0.55, 0.55, 0.6),
}
"""Lights that a prompt can name, as factors of red, green and blue."""


def make_poses(
    name: str, opening: Sequence[float], width: Sequence[float], first: Pose | None = None
) -> list[Pose]:
    """A pose per frame. With ``first`` the head starts at that pose's place."""
    r = make_generator(f"motion|{name}")
    frames = len(opening)
    x, y, tilt = (_sway(r, frames) * scale for scale in (SWAY_SIDES, SWAY_SIDES * 0.7, TILT_RADIANS))
    if first is not None:
        fade = np.exp(-np.arange(frames) / FPS)
        x, y, tilt = (
            path + (start - path[0]) * fade
            for path, start in zip((x, y, tilt), (first.x, first.y, first.tilt), strict=True)
        )
    columns = zip(x, y, tilt, opening, width, _blink(r, frames), strict=True)
    return [Pose(*(float(value) for value in row)) for row in columns]


def make_random_mouth(name: str, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Openings and widths [frames] that follow no speech, for the VAE."""
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


def _blink(r: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """How closed the eyes are, [frames]."""
    closed = np.zeros(frames + len(BLINK_CLOSURE))
    at = int(r.integers(0, 4 * FPS))
    while at < frames:
        closed[at : at + len(BLINK_CLOSURE)] = BLINK_CLOSURE
        at += int(r.integers(2 * FPS, 5 * FPS))
    return closed[:frames]
