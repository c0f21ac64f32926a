"""Prompts of drawn scenes: known words in free order among others that mean nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WORDS: dict[str, tuple[str, ...]] = {
    "wall": ("indoors",),
    "street": ("street", "traffic", "cars", "city"),
    "sea": ("sea", "waves", "ocean", "beach"),
    "trees": ("trees", "tree", "park", "forest"),
    "clouds": ("clouds", "sky", "cloudy"),
    "rain": ("rain", "raining", "rainy"),
    "snow": ("snow", "snowing", "snowy"),
    "cup": ("cup", "coffee", "tea", "mug"),
    "phone": ("phone", "smartphone", "mobile"),
    "balloon": ("balloon", "balloons"),
    "bird": ("bird", "birds"),
    "ball": ("ball", "rolling"),
}
"""Words for everything that is drawn; each has one meaning."""


class Turn(NamedTuple):
    """Words for a direction, and its yaw and pitch in radians; 0 keeps the portrait's."""

    words: tuple[str, ...]
    direction: tuple[float, float]


LOOKS: dict[str, Turn] = {
    "left": Turn(("left", "leftwards"), (-0.7, 0.0)),
    "right": Turn(("right", "rightwards"), (0.7, 0.0)),
    "up": Turn(("up", "upwards"), (0.0, 0.35)),
    "down": Turn(("down", "downwards"), (0.0, -0.35)),
}
FILLERS = (
    *("a", "person", "talks", "to", "the", "camera", "portrait", "of", "woman", "man", "young", "old"),
    *("someone", "speaking", "calmly", "with", "glasses", "in", "front", "drawn", "face", "two", "people"),
    *("friendly", "head", "and", "shoulders", "cartoon", "studio", "colour", "while", "it", "is", "behind"),
    *("long", "hair", "smiling", "serious", "holding", "one", "passing", "by", "near", "falling", "outside"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a prompt names, by the keys of ``GROUNDS``, ``WEATHERS``, ``LIGHTS``, ``THINGS`` and ``LOOKS``."""

    ground: str | None = None
    weather: str | None = None
    light: str | None = None
    things: tuple[str, ...] = ()
    look: str | None = None


def write_prompt(r: np.random.Generator, asked: Asked) -> str:
    """The phrases of everything asked for, in random order, among words without a meaning; nothing asked is
    often no prompt at all."""
    phrases = [_name(r, each) for each in (asked.ground, asked.weather, *asked.things) if each]
    if asked.light:
        phrases.append(f"{asked.light} light" if r.random() < 0.8 else asked.light)
    if asked.look:
        words = LOOKS[asked.look].words
        phrases.append(f"{('looking', 'turned', 'facing')[r.integers(3)]} {words[r.integers(len(words))]}")
    if not phrases and r.random() < 0.6:
        return ""
    order = r.permutation(len(phrases))
    parts = [_fill(r, 4)]
    for index in order:
        parts += [phrases[index], _fill(r, 2)]
    return " ".join(part for part in parts if part)


def _name(r: np.random.Generator, key: str) -> str:
    words = WORDS[key]
    return words[r.integers(len(words))]


def _fill(r: np.random.Generator, most: int) -> str:
    """Up to ``most`` words that mean nothing, a tenth of them made up."""
    count = int(r.integers(0, most + 1))
    words = [
        f"word{r.integers(10**6)}" if r.random() < 0.1 else FILLERS[r.integers(len(FILLERS))]
        for _ in range(count)
    ]
    return " ".join(words)
