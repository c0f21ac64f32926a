"""Signals that stand for speech, at levels that tests choose."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hallo3.media.loudness import LoudnessMeter
from hallo3.noise import make_generator
from support.audio_samples import RATE

FPS, FRAME = 25, 640


def noise(seconds: float, level: float, name: str = "noise") -> Tensor:
    """White noise at ``level`` dBFS."""
    drawn = make_generator(name).standard_normal(round(seconds * RATE), dtype="float32")
    return torch.from_numpy(drawn) * 10 ** (level / 20)


def talk(seconds: float, level: float, name: str = "talk") -> Tensor:
    """Syllables: noise that swells and fades five times a second, ``level`` dBFS where it is loudest."""
    t = torch.arange(round(seconds * RATE)) / RATE
    return noise(seconds, level, name) * torch.sin(math.pi * 5 * t).abs()


def measure(signal: Tensor, pieces: Sequence[int] = ()) -> LoudnessMeter:
    loudness = LoudnessMeter(RATE, FPS)
    for piece in signal.tensor_split(list(pieces)):
        loudness.add(piece)
    return loudness


def db(signal: Tensor) -> float:
    return 20 * math.log10(float(signal.double().square().mean().sqrt()))
