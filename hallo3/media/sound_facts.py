"""What must be known of a whole recording before its channels are mixed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from ..errors import AudioError

CANCELLED = 1e-3
"""A mix this much quieter than its channels means they cancel each other."""


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

    def length_at(self, sample_rate: int) -> int:
        """Samples of the mono signal at another rate, by librosa's rule."""
        return math.ceil(self.samples * (float(sample_rate) / self.sample_rate))

    def _cancel(self) -> bool:
        return self.mixed < CANCELLED * self.loudest
