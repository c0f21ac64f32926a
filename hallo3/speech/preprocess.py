"""How a recording is listened to: what is done to its sound, and how long a stretch is heard at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SegmentConfig
from ..errors import InputError
from ..media.loudness import (
    AS_RECORDED,
    FAINTEST,
    LEVELS,
    MUTED,
    SILENCES,
    SILENT_BELOW,
    GainCurve,
    LoudnessMeter,
    loud_level,
    make_gain_curve,
    silences,
)
from ..messages import logger
from ..segments import SegmentPlan
from .features import AUTO, HEARINGS, Windows, windows_for

AT_ONCE = 1 << 20
"""Samples that are changed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechPreprocessing:
    """Choices for the speech encoder's ears; the video's own sound stays the recording.

    ``level`` "evened" raises quiet passages, so that a second, whispering speaker is heard. ``silence``
    "muted" makes pauses true silence, so that the noise of a room does not move the mouth. ``hearing`` is
    "exact", "windows" (an approximation, see :mod:`hallo3.audio.windowed`) or "auto": exact up to an hour or
    so. The defaults are what the original does. Raises ``InputError`` for other words.
    """

    level: str = AS_RECORDED
    silence: str = AS_RECORDED
    hearing: str = AUTO

    def __post_init__(self) -> None:
        known = {"level": LEVELS, "silence": SILENCES, "hearing": HEARINGS}
        for name, words in known.items():
            if (found := getattr(self, name)) not in words:
                raise InputError(
                    "The recording cannot be listened to like that.",
                    found=f"{name} {found!r}",
                    expected=" or ".join(words),
                    fix="choose one of these",
                )

    @property
    def changes_sound(self) -> bool:
        """Whether the encoder hears anything but the recording as it is."""
        return (self.level, self.silence) != (AS_RECORDED, AS_RECORDED)

    def windows(self, plan: SegmentPlan) -> Windows | None:
        """The windows in which a recording of that plan is heard; None for exactly."""
        return windows_for(self.hearing, plan)

    def loudness(self, config: SegmentConfig) -> LoudnessMeter:
        """Nothing yet; what is added to it decides the gains."""
        return LoudnessMeter(config.sample_rate, config.fps)

    def gains(self, loudness: LoudnessMeter) -> GainCurve | None:
        """What the sound is multiplied with; None for the recording as it is.

        Warns of a recording of which nothing would be left.
        """
        levels = loudness.levels
        if self.silence == MUTED and loud_level(levels) > FAINTEST and bool(silences(levels).all()):
            logger.warning(
                f"The whole recording is fainter than {SILENT_BELOW:.0f} dBFS and counts as silence; nothing "
                "of it is heard."
            )
        return make_gain_curve(loudness, self.level, self.silence)

    def hear(self, waveform: Tensor, config: SegmentConfig) -> Tensor:
        """A mono signal [samples] at the encoder's rate as the encoder is to hear it; itself by default."""
        if not self.changes_sound:
            return waveform
        loudness, pieces = self.loudness(config), list(torch.split(waveform, AT_ONCE))
        for piece in pieces:
            loudness.add(piece)
        gains = self.gains(loudness)
        return waveform if gains is None else torch.cat(list(gains.over(pieces)))

    def facts(self, plan: SegmentPlan) -> dict[str, object]:
        """What of this decides the features, for keys; nothing where they are the original's."""
        found: dict[str, object] = {"level": self.level, "silence": self.silence}
        found = {name: word for name, word in found.items() if word != AS_RECORDED}
        windows = self.windows(plan)
        return found if windows is None else found | {"windows": [windows.frames, windows.overlap]}


ORIGINAL_PREPROCESSING = SpeechPreprocessing()
"""As the original listens."""
