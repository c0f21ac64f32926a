"""The laws of the gains: what they leave alone, what they bring together, and that nothing breaks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.media.loudness import (
    AS_RECORDED,
    EVENED,
    FAINTEST,
    LEVELS,
    MUTED,
    SILENCES,
    GainCurve,
    LoudnessMeter,
    loud_level,
    make_gain_curve,
    silences,
)
from hallo3.noise import make_generator
from support.audio_samples import RATE
from support.speech_signals import FPS, FRAME, db, measured, noise, talk


def whole(curve: GainCurve | None, signal: Tensor) -> Tensor:
    assert curve is not None
    return next(curve.over([signal]))


def test_as_recorded_is_no_gain_at_all() -> None:
    assert make_gain_curve(measured(talk(1, -20)), AS_RECORDED, AS_RECORDED) is None
    for wrong in (("loud", AS_RECORDED), (AS_RECORDED, "loud")):
        with pytest.raises(ValueError, match="loud"):
            make_gain_curve(measured(talk(1, -20)), *wrong)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("silence", SILENCES)
def test_gains_in_pieces_are_the_whole_and_keep_the_length(level: str, silence: str) -> None:
    signal = torch.cat((talk(2.013, -15), noise(1.5, -70), talk(2, -35)))
    curve = make_gain_curve(measured(signal), level, silence)
    if curve is None:
        assert (level, silence) == (AS_RECORDED, AS_RECORDED)
        return
    together = whole(curve, signal)
    assert together.shape == signal.shape
    assert not torch.equal(together, signal)
    cuts = make_generator("cuts").integers(0, len(signal), 20)
    pieces = torch.cat(list(curve.over(signal.tensor_split(sorted(cuts.tolist())))))
    assert torch.equal(pieces, together)
    beyond = curve.at(len(signal), len(signal) + 2 * FRAME)
    assert bool(beyond.isfinite().all())


def test_a_room_becomes_nothing_and_speech_stays_bit_for_bit() -> None:
    signal = torch.cat((noise(1, -65, "room"), talk(2, -20), noise(2, -65, "room"), talk(1, -20)))
    loudness = measured(signal)
    quiet = silences(loudness.levels)
    changed = whole(make_gain_curve(loudness, AS_RECORDED, MUTED), signal).reshape(-1, FRAME)
    assert torch.equal(changed[~quiet], signal.reshape(-1, FRAME)[~quiet])
    inner = quiet & quiet.roll(1) & quiet.roll(-1)
    assert int(inner.sum()) > 50
    assert not bool(changed[inner].any())
    ramps = changed[quiet & ~inner].abs() <= signal.reshape(-1, FRAME)[quiet & ~inner].abs()
    assert bool(ramps.all())
    spoken = torch.arange(len(quiet))[FPS : 3 * FPS]
    assert not bool(quiet[spoken].any())


@pytest.mark.parametrize("seconds", [2.0, 5.0, 30.0])
def test_passages_come_to_one_level(seconds: float) -> None:
    """A second speaker twenty decibels quieter comes within three."""
    one, other = talk(seconds, -15, "one"), talk(seconds, -35, "other")
    signal = torch.cat((one, other, one, other))
    changed = whole(make_gain_curve(measured(signal), EVENED, AS_RECORDED), signal)
    parts = [db(part) for part in changed.tensor_split(4)]
    assert max(parts) - min(parts) <= 3
    assert db(changed[: len(one) // 2]) == pytest.approx(db(signal[: len(one) // 2]), abs=1), "not lowered"


def test_evening_is_slow() -> None:
    signal = torch.cat((talk(5, -15), talk(5, -35)))
    curve = make_gain_curve(measured(signal), EVENED, AS_RECORDED)
    assert curve is not None
    steps = (20 * curve.edges.log10()).diff().abs()
    assert float(steps.max()) <= 2.5, "decibels a frame"
    assert float((20 * curve.edges.log10()).max()) <= 20 + 1e-3


@pytest.mark.parametrize(("level", "most"), [(-70.0, 0.0), (-52.0, 0.0), (-45.0, 11.0)])
def test_what_is_nearly_silence_is_hardly_raised(level: float, most: float) -> None:
    signal = torch.cat((talk(3, -15), noise(3, level, "room"), talk(3, -15)))
    changed = whole(make_gain_curve(measured(signal), EVENED, AS_RECORDED), signal)
    inside = slice(round(3.5 * RATE), round(5.5 * RATE))
    assert db(changed[inside]) - db(signal[inside]) <= most + 0.1
    assert float((changed - signal)[: 2 * RATE].abs().max()) <= 0.3 * float(signal.abs().max())


HARD = {
    "digital silence": torch.zeros(RATE),
    "one sample": torch.ones(1),
    "one frame": talk(0.04, -20),
    "clipped": (talk(2, 20)).clamp(-1, 1),
    "very quiet": talk(2, -180),
    "offset alone": torch.full((RATE,), 0.5),
    "a click": torch.cat((torch.zeros(RATE), torch.ones(1), torch.zeros(RATE))),
    "huge": talk(2, 200),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("level", LEVELS)
def test_anything_stays_finite(name: str, level: str) -> None:
    signal = HARD[name]
    loudness = measured(signal)
    assert bool((loudness.levels >= FAINTEST).all())
    changed = whole(make_gain_curve(loudness, level, MUTED), signal)
    assert changed.shape == signal.shape
    assert bool(changed.isfinite().all())
    if name in {"very quiet", "digital silence", "offset alone"}:
        assert not bool(changed.any()), "silence throughout"


def test_nothing_at_all_has_no_frames() -> None:
    empty = LoudnessMeter(RATE, FPS)
    assert empty.levels.shape == empty.peaks.shape == silences(empty.levels).shape == (0,)
    assert loud_level(empty.levels) == FAINTEST
    curve = make_gain_curve(empty, EVENED, MUTED)
    assert curve is not None
    assert np.isfinite(curve.at(0, 3).numpy()).all()
