"""How a drawn person moves: the head sways and turns, the eyes blink, the mouth follows given openings and
widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hallo3.noise import make_generator

from .faces import Pose
from .grounds import FPS

SWAY, SWAY_DOWN, SWAY_TILT = 0.022, 0.015, 0.035
"""Head units; radians."""
SWAY_YAW, SWAY_PITCH = np.radians(5), np.radians(3)
BLINK_CLOSURE = (0.5, 1.0, 1.0, 0.5)
SETTLE_SECONDS, TURN_SECONDS = 1.0, 0.3
"""Time constants: a video's first frames leave the portrait's pose, and turn to where the prompt says."""


def make_poses(
    name: str,
    opening: Sequence[float],
    width: Sequence[float],
    look: tuple[float, float],
    first: Pose | None = None,
) -> list[Pose]:
    """A pose per frame around the yaw and pitch of ``look``. With ``first`` the head starts in that pose."""
    r = make_generator(f"motion|{name}")
    frames = len(opening)
    scales = (SWAY, SWAY_DOWN, SWAY_TILT, SWAY_YAW, SWAY_PITCH)
    paths = [_sway(r, frames) * scale for scale in scales]
    paths[3], paths[4] = paths[3] + look[0], paths[4] + look[1]
    if first is not None:
        for index, start in enumerate((first.x, first.y, first.tilt, first.yaw, first.pitch)):
            seconds = TURN_SECONDS if index > 2 and abs(start - paths[index][0]) > 0.15 else SETTLE_SECONDS
            fade = np.exp(-np.arange(frames) / FPS / seconds)
            paths[index] = paths[index] + (start - paths[index][0]) * fade
    columns = zip(*paths, opening, width, _blink(r, frames), strict=True)
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
