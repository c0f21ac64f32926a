"""How loud a recording is, and what in it is silence."""

from __future__ import annotations

import math

import pytest
import torch

from hallo3.media.loudness import HOLD_AFTER, HOLD_BEFORE, LoudnessMeter, loud_level, silences
from hallo3.noise import make_generator
from support.audio_samples import RATE
from support.speech_signals import FPS, FRAME, measured, noise, talk


@pytest.mark.parametrize(
    ("level", "offset"),
    [(0.0, 0.0), (-20.0, 0.0), (-60.0, 0.0), (-120.0, 0.0), (-180.0, 0.0), (0.0, 0.25), (-60.0, 0.25)],
)
def test_a_tone_has_its_level_whatever_it_stands_on(level: float, offset: float) -> None:
    t = torch.arange(RATE, dtype=torch.float64)
    tone = math.sqrt(2) * 10 ** (level / 20) * torch.sin(2 * math.pi * 400 * t / RATE)
    levels = measured((tone + offset).float()).levels
    assert levels.shape == (FPS,)
    torch.testing.assert_close(levels, torch.full((FPS,), level), atol=0.05, rtol=0)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 48077])
def test_frames_are_the_plan_s_and_pieces_are_the_whole(samples: int) -> None:
    signal = talk(5, -20)[:samples]
    once = measured(signal)
    assert len(once.levels) == len(once.peaks) == math.ceil(samples / FRAME)
    cuts = sorted(make_generator("cuts").integers(0, samples + 1, 9).tolist())
    pieces = measured(signal, cuts)
    assert torch.equal(pieces.levels, once.levels)
    assert torch.equal(pieces.peaks, once.peaks)
    assert float(once.peaks.max()) == float(signal.abs().max())


def test_loudness_holds_numbers_for_frames_only() -> None:
    loudness = LoudnessMeter(RATE, FPS)
    for _ in range(600):
        loudness.add(torch.ones(RATE))
    assert len(loudness.levels) == 600 * FPS
    held = loudness.levels.nbytes + loudness.peaks.nbytes
    assert held <= 600 * FPS * 8


@pytest.mark.parametrize("pause", [0.0, 0.5, 0.97])
def test_pauses_and_clicks_do_not_change_what_is_loud(pause: float) -> None:
    spoken = noise(60, -25)
    spoken[: round(pause * len(spoken))] *= 1e-4
    assert loud_level(measured(spoken).levels) == pytest.approx(-25, abs=1)
    spoken[::480_000] = 10
    assert loud_level(measured(spoken).levels) == pytest.approx(-25, abs=1)


@pytest.mark.parametrize("gain", [0.0, -20.0, -40.0])
def test_silence_is_relative_to_the_recording(gain: float) -> None:
    """The encoder normalises: a recording that was made too quietly has the same pauses."""
    spoken = torch.cat((talk(2, -20), noise(2, -60, "room"), talk(2, -20)))
    found = silences(measured(spoken * 10 ** (gain / 20)).levels)
    inside = slice(2 * FPS + HOLD_AFTER, 4 * FPS - HOLD_BEFORE)
    assert bool(found[inside].all())
    assert int(found.sum()) == inside.stop - inside.start


def test_the_faint_and_the_very_short_are_not_cut() -> None:
    whisper = torch.cat((noise(2, -20), noise(2, -50, "whisper")))
    assert not bool(silences(measured(whisper).levels).any())
    dip = noise(2, -20)
    dip[16000 : 16000 + 8 * FRAME] = 0
    assert not bool(silences(measured(dip).levels).any()), "shorter than what is held"
    dip[16000 : 16000 + 9 * FRAME] = 0
    assert int(silences(measured(dip).levels).sum()) == 1
