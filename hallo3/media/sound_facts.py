"""What must be known of a whole recording before its channels are mixed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from ..errors import AudioError

CANCELLED = 1e-3
"""A mix this much quieter than its channels means they cancel each other."""
SLOWEST, FASTEST = 1_000, 768_000
"""Samples a second that a recording has: telephones have 8,000, the finest studios 768,000."""
MOST_CHANNELS = 64
"""More than any microphone array has; beyond it FFmpeg mixes no more."""
LONGEST_HOURS = 12
"""Hours that a recording lasts at most."""
RATES = f"a whole number from {SLOWEST} to {FASTEST} Hz"


def check_form(sample_rate: int, channels: int, samples: int) -> None:
    """Refuse a sample rate, a number of channels or a length that no recording of speech has, before anything
    is computed with it.

    Raises ``AudioError``.
    """
    if not SLOWEST <= sample_rate <= FASTEST:
        raise no_rate(f"{sample_rate} Hz")
    if channels > MOST_CHANNELS:
        raise AudioError(
            "The recording has too many channels.",
            found=f"{channels} channels of {samples} samples",
            expected=f"at most {MOST_CHANNELS}",
            do="mix it down to stereo, or change the axes if they are the wrong way round",
        )
    if samples > LONGEST_HOURS * 3600 * sample_rate:
        raise AudioError(
            "The recording is too long.",
            found=f"{samples / sample_rate / 3600:.2f} h",
            expected=f"at most {LONGEST_HOURS} h",
            do="cut it into parts and make a video of each",
        )


def no_rate(found: str) -> AudioError:
    """What to tell of a sample rate that is none."""
    return AudioError(
        "The recording's sample rate cannot be used.",
        found=found,
        expected=RATES,
        do="export the recording again, at 16000 Hz or more",
    )


@dataclass(slots=True)
class SoundFacts:
    """Length, loudness and faults of a recording, gathered piece by piece.

    ``loudest`` is over all channels, ``mixed`` over their mean; ``bad`` is the first sample that is
    not finite.
    """

    sample_rate: int
    channels: int
    samples: int = 0
    loudest: float = 0.0
    mixed: float = 0.0
    bad: int | None = None

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    def add(self, waveform: Tensor) -> None:
        """The next [channels, samples] of the recording."""
        finite = waveform.isfinite().all(dim=0)
        if self.bad is None and not bool(finite.all()):
            self.bad = self.samples + int((~finite).nonzero()[0])
        self.samples += waveform.shape[1]
        self.loudest = max(self.loudest, float(waveform.abs().max()))
        self.mixed = max(self.mixed, float(waveform.mean(dim=0).abs().max()))

    def check(self) -> None:
        """Raises ``AudioError`` for a recording that holds values that are not finite."""
        if self.bad is not None:
            raise AudioError(
                "The recording holds values that are not numbers.",
                found=f"NaN or infinity at {self.bad / self.sample_rate:.3f} s",
                expected="finite samples",
                do="export the recording again",
            )

    def tell(self) -> None:
        """Warns the caller's caller of silence and of channels that cancel each other."""
        if self.loudest == 0:
            warnings.warn("The recording is digital silence; the mouth has nothing to follow.", stacklevel=4)
        if self._cancel():
            warnings.warn("The channels cancel each other when mixed; the first one is used.", stacklevel=4)

    def mix(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [n]: the mean, or the first channel if they cancel each other."""
        return waveform[0] if self._cancel() else waveform.mean(dim=0)

    def stereo(self, waveform: Tensor) -> Tensor:
        """[channels, n] -> [2, n]: two channels as they are; one, several, or two that cancel each other are
        mixed to one and doubled."""
        if self.channels == 2 and not self._cancel():
            return waveform
        return self.mix(waveform).expand(2, -1)

    def length_at(self, sample_rate: int) -> int:
        """Samples of the mono signal at another rate, by librosa's rule."""
        return math.ceil(self.samples * (float(sample_rate) / self.sample_rate))

    def _cancel(self) -> bool:
        return self.mixed < CANCELLED * self.loudest
