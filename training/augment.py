"""Audio augmentation: rooms, microphones and background noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from hallo3.noise import make_generator

Waveform = NDArray[np.float32]

NOISE_COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""Exponent with which the amplitude falls with frequency."""
POOL_SAMPLES = 2**20
MIN_SNR_DB, MAX_SNR_DB = 8.0, 40.0


@dataclass(frozen=True, slots=True)
class Augmenter:
    """``pools`` holds noise [POOL_SAMPLES] of unit variance for every colour."""

    pools: dict[str, Waveform]
    sample_rate: int

    def draw_noise(self, r: np.random.Generator, colour: str, samples: int) -> Waveform:
        """Noise [samples] from a random place in the pool, which repeats at its end."""
        start = int(r.integers(POOL_SAMPLES))
        return np.take(self.pools[colour], np.arange(start, start + samples), mode="wrap")

    def augment(self, r: np.random.Generator, clean: Waveform) -> Waveform:
        sound = clean
        if r.random() < 0.3:
            sound = self._add_reverb(r, sound)
        if r.random() < 0.5:
            sound = self._filter_spectrum(r, sound)
        if r.random() < 0.7:
            snr = r.uniform(MIN_SNR_DB, MAX_SNR_DB)
            sound = self.add_noise(r, sound, ("white", "pink")[r.integers(2)], snr)
        return sound.astype(np.float32)

    def add_noise(self, r: np.random.Generator, sound: Waveform, colour: str, snr_db: float) -> Waveform:
        level = sound.std() * np.float32(10 ** (-snr_db / 20))
        return sound + level * self.draw_noise(r, colour, sound.size)

    def make_non_speech(self, r: np.random.Generator, samples: int) -> Waveform:
        """[samples] without speech: noise of any colour, or digital silence."""
        kinds = (*NOISE_COLOURS, None)
        colour = kinds[r.integers(len(kinds))]
        if colour is None:
            return np.zeros(samples, np.float32)
        return self._filter_spectrum(r, self.draw_noise(r, colour, samples)).astype(np.float32)

    def _filter_spectrum(self, r: np.random.Generator, sound: Waveform) -> Waveform:
        """Low-pass, high-pass or shelf."""
        match r.integers(3):
            case 0:
                return self._low_pass(sound, 10 ** r.uniform(np.log10(1800), np.log10(7000)))
            case 1:
                return sound - self._low_pass(sound, 10 ** r.uniform(np.log10(60), np.log10(400)))
            case _:
                return sound + np.float32(r.uniform(-0.6, 1.5)) * self._low_pass(sound, r.uniform(300, 2000))

    def _low_pass(self, sound: Waveform, hertz: float) -> Waveform:
        keep = np.float32(np.exp(-2 * np.pi * hertz / self.sample_rate))
        return lfilter([1 - keep], np.array([1, -keep], np.float32), sound).astype(np.float32)

    def _add_reverb(self, r: np.random.Generator, sound: Waveform) -> Waveform:
        seconds = r.uniform(0.1, 0.35)
        times = np.arange(int(seconds * self.sample_rate)) / self.sample_rate
        echo = r.standard_normal(times.size, dtype=np.float32) * np.exp(-6.9 * times / seconds)
        echo *= r.uniform(0.1, 0.4) / np.sqrt((echo**2).sum())
        return sound + fftconvolve(sound, echo.astype(np.float32))[: sound.size].astype(np.float32)


def make_augmenter(name: str, sample_rate: int) -> Augmenter:
    """The same name gives the same noise."""
    frequency = np.fft.rfftfreq(POOL_SAMPLES, 1 / sample_rate)
    frequency[0] = frequency[1]
    pools: dict[str, Waveform] = {}
    for colour, power in NOISE_COLOURS.items():
        white = make_generator(f"{name}|{colour}").standard_normal(POOL_SAMPLES, dtype=np.float32)
        shaped = np.fft.irfft(np.fft.rfft(white) / np.maximum(frequency, 20.0) ** power, POOL_SAMPLES)
        pools[colour] = ((shaped - shaped.mean()) / shaped.std()).astype(np.float32)
    return Augmenter(pools, sample_rate)
