"""Audio preprocessing before wav2vec2, and whether a long recording is encoded exactly or in windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SegmentConfig
from ..errors import check_choice
from ..media.loudness import (
    AS_RECORDED,
    LEVELS,
    MIN_DBFS,
    MUTED,
    SILENCE_DBFS,
    SILENCES,
    GainCurve,
    LoudnessMeter,
    find_silence,
    loud_level,
    make_gain_curve,
)
from ..messages import logger
from ..segments import SegmentPlan
from .features import AUTO, HEARINGS, Windows, choose_windows

PIECE_SAMPLES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechPreprocessing:
    """What the speech encoder gets; the video's own sound stays the recording.

    ``level`` "evened" raises quiet passages, such as a second, whispering speaker. ``silence`` "muted" makes
    pauses digital silence, so that room noise does not move the mouth. ``hearing`` is "exact", "windows" (an
    approximation, see ``features.py``) or "auto": exact up to an hour. The defaults are the original's.
    Raises ``InputError`` for other words.
    """

    level: str = AS_RECORDED
    silence: str = AS_RECORDED
    hearing: str = AUTO

    def __post_init__(self) -> None:
        for name, choices in {"level": LEVELS, "silence": SILENCES, "hearing": HEARINGS}.items():
            check_choice(getattr(self, name), choices, name)

    def windows(self, plan: SegmentPlan) -> Windows | None:
        return choose_windows(self.hearing, plan)

    def make_gains(self, meter: LoudnessMeter) -> GainCurve | None:
        """Gains for the measured signal; None to leave it as recorded. Warns if all of it is muted."""
        levels = meter.levels
        if self.silence == MUTED and loud_level(levels) > MIN_DBFS and bool(find_silence(levels).all()):
            logger.warning(
                f"The whole recording is below {SILENCE_DBFS:.0f} dBFS and counts as silence: nothing drives "
                "the mouth."
            )
        return make_gain_curve(meter, self.level, self.silence)

    def apply(
        self, waveform: Tensor, config: SegmentConfig
    ) -> tuple[Tensor, LoudnessMeter, GainCurve | None]:
        """A mono signal [samples] at the encoder's rate with its gains, how loud it was before, and the
        gains."""
        meter = LoudnessMeter(config.sample_rate, config.fps)
        for piece in torch.split(waveform, PIECE_SAMPLES):
            meter.add(piece)
        gains = self.make_gains(meter)
        if gains is not None:
            waveform = torch.cat(list(gains.over(torch.split(waveform, PIECE_SAMPLES))))
        return waveform, meter, gains

    def key_facts(self, plan: SegmentPlan) -> dict[str, object]:
        """What of this decides the features, for a job's key; empty at the defaults."""
        words = {"level": self.level, "silence": self.silence}
        facts: dict[str, object] = {name: word for name, word in words.items() if word != AS_RECORDED}
        windows = self.windows(plan)
        return facts if windows is None else facts | {"windows": [windows.frames, windows.overlap]}


ORIGINAL_PREPROCESSING = SpeechPreprocessing()
