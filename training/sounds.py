"""What rooms, microphones and neighbours do to a recording: for networks that should not mind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from hallo3.noise import make_generator

Waveform = NDArray[np.float32]

COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""Noises, and the power of frequency by which their spectrum falls."""
POOL = 2**20
LOUDEST_NOISE, FAINTEST_NOISE = 8.0, 40.0
"""Signal to noise in dB."""


@dataclass(frozen=True, slots=True)
class Sounds:
    """Noise [POOL] of every colour, of unit variance, and the rate all sounds have."""

    pools: dict[str, Waveform]
    sample_rate: int

    def noise(self, r: np.random.Generator, colour: str, samples: int) -> Waveform:
        """A stretch [samples] of a colour; beyond ``POOL`` samples it is repeated."""
        start = int(r.integers(POOL))
        return np.take(self.pools[colour], np.arange(start, start + samples), mode="wrap")

    def roughened(self, r: np.random.Generator, clean: Waveform) -> Waveform:
        """The recording [samples] as another room, microphone and neighbourhood would give it."""
        sound = clean
        if r.random() < 0.3:
            sound = self._echoing(r, sound)
        if r.random() < 0.5:
            sound = self._coloured(r, sound)
        if r.random() < 0.7:
            decibels = r.uniform(LOUDEST_NOISE, FAINTEST_NOISE)
            sound = self.with_noise(r, sound, ("white", "pink")[r.integers(2)], decibels)
        return sound.astype(np.float32)

    def with_noise(self, r: np.random.Generator, sound: Waveform, colour: str, decibels: float) -> Waveform:
        """Noise so many dB below the recording."""
        level = sound.std() * np.float32(10 ** (-decibels / 20))
        return sound + level * self.noise(r, colour, sound.size)

    def nobody(self, r: np.random.Generator, samples: int) -> Waveform:
        """A recording [samples] in which nobody speaks: noise of any colour, or digital silence."""
        kinds = (*COLOURS, None)
        colour = kinds[r.integers(len(kinds))]
        if colour is None:
            return np.zeros(samples, np.float32)
        return self._coloured(r, self.noise(r, colour, samples)).astype(np.float32)

    def _coloured(self, r: np.random.Generator, sound: Waveform) -> Waveform:
        match r.integers(3):
            case 0:
                return self._low(sound, 10 ** r.uniform(np.log10(1800), np.log10(7000)))
            case 1:
                return sound - self._low(sound, 10 ** r.uniform(np.log10(60), np.log10(400)))
            case _:
                return sound + np.float32(r.uniform(-0.6, 1.5)) * self._low(sound, r.uniform(300, 2000))

    def _low(self, sound: Waveform, hertz: float) -> Waveform:
        keep = np.float32(np.exp(-2 * np.pi * hertz / self.sample_rate))
        return lfilter([1 - keep], np.array([1, -keep], np.float32), sound).astype(np.float32)

    def _echoing(self, r: np.random.Generator, sound: Waveform) -> Waveform:
        seconds = r.uniform(0.1, 0.35)
        times = np.arange(int(seconds * self.sample_rate)) / self.sample_rate
        echo = r.standard_normal(times.size, dtype=np.float32) * np.exp(-6.9 * times / seconds)
        echo *= r.uniform(0.1, 0.4) / np.sqrt((echo**2).sum())
        return sound + fftconvolve(sound, echo.astype(np.float32))[: sound.size].astype(np.float32)


def sounds_named(name: str, sample_rate: int) -> Sounds:
    """The same name is the same noise."""
    frequency = np.fft.rfftfreq(POOL, 1 / sample_rate)
    frequency[0] = frequency[1]
    pools: dict[str, Waveform] = {}
    for colour, power in COLOURS.items():
        drawn = make_generator(f"{name}|{colour}").standard_normal(POOL, dtype=np.float32)
        shaped = np.fft.irfft(np.fft.rfft(drawn) / np.maximum(frequency, 20.0) ** power, POOL)
        pools[colour] = ((shaped - shaped.mean()) / shaped.std()).astype(np.float32)
    return Sounds(pools, sample_rate)
