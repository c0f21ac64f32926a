"""Samples and WAV files."""

import wave
from pathlib import Path

import numpy as np

RATE = 16000


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
