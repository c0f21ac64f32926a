"""Samples, WAV files, and signals that stand for speech, at levels that tests choose."""

import math
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hallo3.media.loudness import LoudnessMeter
from hallo3.noise import make_generator

RATE, FPS, FRAME = 16000, 25, 640


def tone(rate: int, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return np.tile(0.5 * np.sin(2 * np.pi * 440 * t), (channels, 1)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int, width: int = 2) -> Path:
    kind = {1: np.uint8, 2: np.int16, 4: np.int32}[width]
    scaled = samples.T * (2 ** (8 * width - 1) - 1) + (128 if width == 1 else 0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(scaled.round().astype(kind).tobytes())
    return path


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
