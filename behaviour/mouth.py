"""The mouth rule: how open and how wide a mouth should be, from the recording alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

NORMALISE_EPS = 1e-7
"""As the speech encoder normalises a recording."""
QUIETEST = 1e-12
OPEN_DECADES, OPEN_POWER = 1.25, 1.3
"""A mouth opens from a tenth of the recording's level, over so many powers of ten."""
SPECTRUM, LOWEST, HIGHEST = 1024, 60.0, 4000.0
"""Samples that the centroid sees of a frame, and its band in Hz."""
NARROW, WIDE = 450.0, 1950.0
"""Centroids in Hz of a mouth as narrow and as wide as can be."""
NEUTRAL, SURE = 0.5, 0.15
"""Width of a closed mouth, and the opening from which the sound alone decides the width."""
SMOOTH = (0.2, 0.6, 0.2)


class Mouth(NamedTuple):
    """Opening and width [frames] of each, 0..1."""

    open: Floats
    wide: Floats


def mouth_of(waveform: ArrayLike, frames: int, sample_rate: int = 16000, fps: int = 25) -> Mouth:
    """The mouth of every frame of a mono recording [samples].

    Frame i is decided by its ``sample_rate / fps`` samples and, for the width, by a window around their
    middle; the recording is cut or filled with silence to so many frames, after it was normalised as a whole.
    Raises ``ValueError`` for anything but one dimension.
    """
    per_frame = sample_rate // fps
    sound = normalised(waveform)
    opened = _opening(cut(sound, frames * per_frame).reshape(frames, per_frame))
    wide = _width(spectra(sound, frames, per_frame), sample_rate)
    wide = NEUTRAL + (wide - NEUTRAL) * np.minimum(1, opened / SURE)
    return Mouth(_smooth(opened), _smooth(wide))


def normalised(waveform: ArrayLike) -> Floats:
    """Zero mean and unit population variance over the whole recording [samples]; silence is zeros."""
    sound = np.asarray(waveform, dtype=np.float32)
    if sound.ndim != 1:
        raise ValueError(f"a mono waveform [samples], not {list(sound.shape)}")
    if sound.size == 0:
        return sound
    return (sound - sound.mean()) / np.sqrt(sound.var() + np.float32(NORMALISE_EPS))


def spectra(sound: Floats, frames: int, per_frame: int) -> Floats:
    """Magnitudes [frames, 513] of the Hann windows around the frames' middles, zeros beyond the ends."""
    before = SPECTRUM // 2 - per_frame // 2
    filled = cut(np.concatenate((np.zeros(before, np.float32), sound)), (frames - 1) * per_frame + SPECTRUM)
    windows = sliding_window_view(filled, SPECTRUM)[::per_frame]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SPECTRUM) / SPECTRUM)
    return np.abs(np.fft.rfft(windows * hann.astype(np.float32))).astype(np.float32)


def cut(sound: Floats, samples: int) -> Floats:
    """The first so many samples, with zeros for those that are not there."""
    return np.pad(sound[:samples], (0, max(0, samples - sound.size)))


def _opening(pieces: Floats) -> Floats:
    """[frames, samples] -> [frames]: the level over a tenth of the whole recording's."""
    level = np.log10(np.sqrt((pieces**2).mean(axis=1)) + QUIETEST)
    return (np.clip((level + 1) / OPEN_DECADES, 0, 1) ** OPEN_POWER).astype(np.float32)


def _width(magnitudes: Floats, sample_rate: int) -> Floats:
    """[frames, 513] -> [frames]: where the sound's weight is, between dark and bright."""
    hertz = np.fft.rfftfreq(SPECTRUM, 1 / sample_rate).astype(np.float32)
    band = (hertz >= LOWEST) & (hertz <= HIGHEST)
    heard = magnitudes[:, band]
    centroid = (heard @ hertz[band]) / (heard.sum(axis=1) + QUIETEST)
    return np.clip((centroid - NARROW) / (WIDE - NARROW), 0, 1)


def _smooth(values: NDArray[Any]) -> Floats:
    edged = np.pad(values, 1, mode="edge") if values.size else np.zeros(2)
    earlier, now, later = SMOOTH
    return (earlier * edged[:-2] + now * edged[1:-1] + later * edged[2:]).astype(np.float32)
