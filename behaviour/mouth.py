"""The mouth rule: how open and how wide a mouth should be, from the recording alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

NORMALISE_EPS = 1e-7
"""The speech encoder's."""
MIN_LEVEL = 1e-12
OPEN_DECADES, OPEN_POWER = 1.25, 1.3
"""A mouth opens from a tenth of the recording's level, over this many powers of ten."""
SPECTRUM_SAMPLES, MIN_HERTZ, MAX_HERTZ = 1024, 60.0, 4000.0
"""Window of the spectral centroid, and its band."""
NARROW_HERTZ, WIDE_HERTZ = 450.0, 1950.0
"""Centroids of the narrowest and the widest mouth."""
NEUTRAL_WIDTH, MIN_OPENING_FOR_WIDTH = 0.5, 0.15
"""Width of a closed mouth, and the opening from which the centroid alone decides the width."""
SMOOTHING = (0.2, 0.6, 0.2)


class Mouth(NamedTuple):
    """Opening and width, each [frames] in 0..1."""

    open: Floats
    wide: Floats


def compute_mouth(waveform: ArrayLike, frames: int, sample_rate: int = 16000, fps: int = 25) -> Mouth:
    """The mouth of every frame of a mono recording [samples].

    A frame depends on its ``sample_rate / fps`` samples and, for the width, on a window around their middle;
    the recording is normalised as a whole, then cut or padded to ``frames``. Raises ``ValueError`` for
    anything but one dimension.
    """
    per_frame = sample_rate // fps
    sound = normalise(waveform)
    opening = _compute_opening(fit_length(sound, frames * per_frame).reshape(frames, per_frame))
    wide = _compute_width(compute_spectra(sound, frames, per_frame), sample_rate)
    wide = NEUTRAL_WIDTH + (wide - NEUTRAL_WIDTH) * np.minimum(1, opening / MIN_OPENING_FOR_WIDTH)
    return Mouth(_smooth(opening), _smooth(wide))


def normalise(waveform: ArrayLike) -> Floats:
    """Zero mean and unit population variance over the whole recording [samples]; silence is zeros."""
    sound = np.asarray(waveform, dtype=np.float32)
    if sound.ndim != 1:
        raise ValueError(f"a mono waveform [samples], not {list(sound.shape)}")
    if sound.size == 0:
        return sound
    return (sound - sound.mean()) / np.sqrt(sound.var() + np.float32(NORMALISE_EPS))


def compute_spectra(sound: Floats, frames: int, per_frame: int) -> Floats:
    """Magnitudes [frames, 513] of Hann windows around the frames' middles, padded with zeros."""
    before = SPECTRUM_SAMPLES // 2 - per_frame // 2
    padded = np.concatenate((np.zeros(before, np.float32), sound))
    padded = fit_length(padded, (frames - 1) * per_frame + SPECTRUM_SAMPLES)
    windows = sliding_window_view(padded, SPECTRUM_SAMPLES)[::per_frame]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SPECTRUM_SAMPLES) / SPECTRUM_SAMPLES)
    return np.abs(np.fft.rfft(windows * hann.astype(np.float32))).astype(np.float32)


def fit_length(sound: Floats, samples: int) -> Floats:
    """Cut or pad with zeros."""
    return np.pad(sound[:samples], (0, max(0, samples - sound.size)))


def _compute_opening(pieces: Floats) -> Floats:
    """[frames, samples] -> [frames], from the level above a tenth of the recording's."""
    level = np.log10(np.sqrt((pieces**2).mean(axis=1)) + MIN_LEVEL)
    return (np.clip((level + 1) / OPEN_DECADES, 0, 1) ** OPEN_POWER).astype(np.float32)


def _compute_width(magnitudes: Floats, sample_rate: int) -> Floats:
    """[frames, 513] -> [frames], from the spectral centroid."""
    hertz = np.fft.rfftfreq(SPECTRUM_SAMPLES, 1 / sample_rate).astype(np.float32)
    band = (hertz >= MIN_HERTZ) & (hertz <= MAX_HERTZ)
    inside = magnitudes[:, band]
    centroid = (inside @ hertz[band]) / (inside.sum(axis=1) + MIN_LEVEL)
    return np.clip((centroid - NARROW_HERTZ) / (WIDE_HERTZ - NARROW_HERTZ), 0, 1)


def _smooth(values: NDArray[Any]) -> Floats:
    edged = np.pad(values, 1, mode="edge") if values.size else np.zeros(2)
    earlier, now, later = SMOOTHING
    return (earlier * edged[:-2] + now * edged[1:-1] + later * edged[2:]).astype(np.float32)
