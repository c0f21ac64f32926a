"""What a video shows besides people, by simple features of its pixels: the ground, weather, things, the
light.

Colours of bands beside the people, their change, movement downwards, and the colours that things have;
logistic classifiers over them were fitted on drawn videos (``python -m training.classifiers``), and their
coefficients are in ``classifiers.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .pixels import Head, measure_changes, measure_cheeks

Floats = NDArray[np.float64]

COEFFICIENTS = Path(__file__).with_name("classifiers.json")
LIGHTS = {
    "": (1.0, 1.0, 1.0),
    "warm": (1.0, 0.82, 0.55),
    "blue": (0.55, 0.75, 1.0),
    "green": (0.62, 1.0, 0.62),
    "dim": (0.55, 0.55, 0.6),
}
"""As factors of red, green and blue."""
GROUNDS = ("wall", "street", "sea", "trees", "clouds")
WEATHERS = ("", "rain", "snow")
SIGNATURES = {
    "cup": (226, 84, 40),
    "phone": (110, 226, 240),
    "balloon": (236, 60, 170),
    "bird": (44, 44, 60),
    "ball": (250, 180, 20),
}
"""Colours of things."""
SKIN_WIDTH = 0.08
"""Standard deviation of a skin's colour."""
SIGNATURE_WIDTH = 0.07
"""Standard deviation around such a colour."""
HEAD_HEIGHT = 0.76
"""In head units, in which places of things are."""
BANDS = 5
FALLS = range(8)
"""Pixels that what falls may move down from frame to frame, in 96ths of the height."""
FALLING_ROWS = 96
EPS = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Keys of ``GROUNDS``, ``WEATHERS``, ``SIGNATURES`` and ``LIGHTS``."""

    ground: str
    weather: str
    things: frozenset[str]
    light: str


def measure_contents(frames: Tensor, portrait: Tensor, heads: Sequence[Head]) -> Contents:
    """Of consecutive frames [F, 3, H, W], 8 or more, and where heads are in the portrait [3, h, w]. Weather
    needs frames at 25 fps, the light the portrait's colours."""
    still = find_still(frames)
    light = measure_light(still, portrait, heads)
    plain, still = remove_light(frames, light), remove_light(still, light)
    known = _read_classifiers()
    return Contents(
        ground=known["ground"].classify(describe_ground(plain, still, heads)),
        weather=known["weather"].classify(describe_weather(plain, still, heads)),
        things=frozenset(
            kind for kind in SIGNATURES if known[kind].classify(describe_thing(plain, heads, kind)) == kind
        ),
        light=light,
    )


def find_still(frames: Tensor) -> Tensor:
    """The median [3, H, W] of every third frame."""
    return torch.from_numpy(np.median(frames[::3].numpy(), axis=0))


def measure_light(still: Tensor, portrait: Tensor, heads: Sequence[Head]) -> str:
    """The light without which most of people's heads has the colour of their skin in the portrait."""
    shares = dict.fromkeys(LIGHTS, 0.0)
    for head in heads:
        skin = measure_cheeks(portrait, head)[:, None, None]
        for light in LIGHTS:
            distance = (remove_light(head.box.crop(still), light) - skin).square().sum(dim=0)
            shares[light] += float(torch.exp(-distance / (2 * SKIN_WIDTH**2)).mean())
    return max(shares, key=lambda light: shares[light])


def remove_light(frames: Tensor, light: str) -> Tensor:
    return (frames / torch.tensor(LIGHTS[light])[:, None, None]).clamp(0, 1)


def find_free(heads: Sequence[Head], height: int, width: int) -> Tensor:
    """Where [H, W] no head, shoulders or hands are."""
    y, x = _coordinates(height, width)
    free = torch.ones(height, width, dtype=torch.bool)
    for head in heads:
        cx, cy, unit = _place(head)
        beside = (x - cx).abs() / unit
        free &= ~((beside < 0.42) & (y > cy - 0.52 * unit))
        free &= ~((beside < 0.57) & (y > cy + 0.12 * unit))
    return free


def measure_ground_change(frames: Tensor, heads: Sequence[Head]) -> float:
    """Mean absolute difference between frames beside the people, in 255ths."""
    return float(measure_changes(frames, find_free(heads, *frames.shape[-2:])).mean())


def describe_ground(frames: Tensor, still: Tensor, heads: Sequence[Head]) -> Floats:
    """Per band from top to bottom: the median frame's colour, its variation across, the change over time."""
    moving = (frames - still).abs().mean(dim=(0, 1))
    height, width = still.shape[-2:]
    free, rows = find_free(heads, height, width), torch.arange(height) * BANDS // height
    values: list[float] = []
    before: Tensor | None = None
    for band in range(BANDS):
        chosen = free & (rows[:, None] == band)
        if int(chosen.sum()) < 8:
            chosen = before if before is not None else torch.ones_like(free)
        before = chosen
        colours = still[:, chosen]
        mean, spread = colours.mean(dim=1), float(colours.std(dim=1).mean())
        change = float(moving[chosen].mean())
        values += [*mean.tolist(), spread, np.log(spread + 0.01), np.log(change + 0.003)]
    return np.array(values)


def describe_weather(frames: Tensor, still: Tensor, heads: Sequence[Head]) -> Floats:
    """What passes before the median frame: how bright and blue it is, and how far down it has moved in the
    next frame, as correlations."""
    passing = (frames - still) * find_free(heads, *frames.shape[-2:])
    bright = passing.mean(dim=1)
    power = float(bright.square().mean())
    step = frames.shape[-2] / FALLING_ROWS
    falls = [_correlate(bright, round(fall * step), power) for fall in FALLS]
    light, dark = bright.clamp(min=0), bright.clamp(max=0)
    tint = (passing[:, 2] - passing[:, 0]) * (bright > 0.05)
    white = ((frames.min(dim=1).values > 0.9) & (bright > 0.03)).float().mean()
    amounts = [float(light.mean()), float(-dark.mean()), float(white), float((bright > 0.1).float().mean())]
    return np.array([*falls, *(np.log(amount + 1e-4) for amount in amounts), float(tint.mean()) * 100])


def _correlate(bright: Tensor, fall: int, power: float) -> float:
    height = bright.shape[-2]
    product = bright[:-1, : height - fall] * bright[1:, fall:]
    return float(product.mean()) / (power + 1e-6)


def describe_thing(frames: Tensor, heads: Sequence[Head], kind: str) -> Floats:
    """How much of where it may be has a thing's colour: on average, most, least, and how that changes."""
    colour = torch.tensor(SIGNATURES[kind]) / 255
    distance = (frames - colour[:, None, None]).square().sum(dim=1)
    near = torch.exp(-distance / (2 * SIGNATURE_WIDTH**2)) * find_place(kind, heads, *frames.shape[-2:])
    amounts = np.sort(near.mean(dim=(1, 2)).numpy().astype(np.float64))
    quarter = max(1, len(amounts) // 4)
    mean, most, least = amounts.mean(), amounts[-quarter:].mean(), amounts[:quarter].mean()
    always = near.mean(dim=0)
    spread = (near.square().mean(dim=0) - always.square()).clamp_min(0).sqrt()
    still = float((always - spread).clamp_min(0).mean())
    return np.array([np.log(value + EPS) for value in (mean, most, least, most - least, still)])


def find_place(kind: str, heads: Sequence[Head], height: int, width: int) -> Tensor:
    """Where [H, W] a thing may be; who holds one is the first person."""
    y, x = _coordinates(height, width)
    cx, cy, unit = _place(heads[0])
    across, down = (x - cx) / unit, (y - cy) / unit
    match kind:
        case "cup":
            return (across > -0.62) & (across < -0.24) & (down > 0.1)
        case "phone":
            return (across < 0.62) & (across > 0.24) & (down > 0.05)
        case "ball":
            return (y > 0.84).expand(height, width)
        case _:
            top = 0.34 if kind == "bird" else 0.36
            beside = torch.ones(height, width, dtype=torch.bool)
            for head in heads:
                hx, hy, size = _place(head)
                beside &= ~(((x - hx).abs() < 0.44 * size) & (y > hy - 0.52 * size))
            return beside & (y < top)


def _place(head: Head) -> tuple[float, float, float]:
    """The middle, and a head unit."""
    box = head.box
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2, (box.bottom - box.top) / HEAD_HEIGHT


def _coordinates(height: int, width: int) -> tuple[Tensor, Tensor]:
    """In picture heights: y [H, 1] and x [1, W]."""
    return ((torch.arange(height) + 0.5) / height)[:, None], ((torch.arange(width) + 0.5) / height)[None]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Logistic, over standardised features and their squares."""

    classes: tuple[str, ...]
    mean: Floats
    scale: Floats
    weights: Floats
    """[classes, 2 x features + 1]."""

    def classify(self, features: Floats) -> str:
        return self.classes[int(self.score(features).argmax())]

    def score(self, features: Floats) -> Floats:
        """[..., features] -> [..., classes]."""
        return expand(features, self.mean, self.scale) @ self.weights.T

    def to_dict(self) -> dict[str, Any]:
        rounded = {name: np.round(getattr(self, name), 3).tolist() for name in ("mean", "scale", "weights")}
        return {"classes": list(self.classes), **rounded}


def expand(features: Floats, mean: Floats, scale: Floats) -> Floats:
    """Standardised features within ±4, their squares, and 1."""
    z = np.clip((features - mean) / scale, -4, 4)
    return np.concatenate((z, z**2, np.ones((*z.shape[:-1], 1))), axis=-1)


@cache
def _read_classifiers() -> dict[str, Classifier]:
    known = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return {
        name: Classifier(
            tuple(each["classes"]), *(np.array(each[key]) for key in ("mean", "scale", "weights"))
        )
        for name, each in known["classifiers"].items()
    }
