import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.media import loudness
from hallo3.media.loudness import AS_RECORDED, EVENED, LEVELS, MUTED, SILENCES, find_silence, make_gain_curve
from hallo3.noise import make_generator
from support.audio_samples import FPS, FRAME, RATE, db, measure, noise, talk


def test_a_tone_has_its_level_at_any_offset() -> None:
    wave = math.sqrt(2) * torch.sin(2 * math.pi * 400 * torch.arange(RATE, dtype=torch.float64) / RATE)
    for level, offset in ((0, 0), (-60, 0), (-120, 0), (-180, 0), (0, 0.25), (-60, 0.25)):
        levels = measure((10 ** (level / 20) * wave + offset).float()).levels
        torch.testing.assert_close(levels, torch.full((FPS,), float(level)), atol=0.05, rtol=0)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 48077])
def test_pieces_equal_the_whole_and_frames_are_the_plan_s(samples: int) -> None:
    signal = talk(5, -20)[:samples]
    once = measure(signal)
    assert len(once.levels) == len(once.peaks) == math.ceil(samples / FRAME)
    pieces = measure(signal, sorted(make_generator("cuts").integers(0, samples + 1, 9).tolist()))
    assert torch.equal(pieces.levels, once.levels)
    assert torch.equal(pieces.peaks, once.peaks)
    assert float(once.peaks.max()) == float(signal.abs().max())


@pytest.mark.parametrize("pause", [0.0, 0.5, 0.97])
def test_pauses_and_clicks_do_not_change_the_loud_level(pause: float) -> None:
    spoken = noise(60, -25)
    spoken[: round(pause * len(spoken))] *= 1e-4
    assert loudness.loud_level(measure(spoken).levels) == pytest.approx(-25, abs=1)
    spoken[::480_000] = 10
    assert loudness.loud_level(measure(spoken).levels) == pytest.approx(-25, abs=1)


@pytest.mark.parametrize("gain", [0.0, -20.0, -40.0])
def test_silence_is_relative_to_the_recording(gain: float) -> None:
    """The encoder normalizes: a recording that was made too quietly has the same pauses."""
    spoken = torch.cat((talk(2, -20), noise(2, -60, "room"), talk(2, -20)))
    silent = find_silence(measure(spoken * 10 ** (gain / 20)).levels)
    inside = slice(2 * FPS + loudness.HOLD_AFTER, 4 * FPS - loudness.HOLD_BEFORE)
    assert bool(silent[inside].all())
    assert int(silent.sum()) == inside.stop - inside.start


def test_whispers_and_short_dips_are_not_silence() -> None:
    whisper = torch.cat((noise(2, -20), noise(2, -50, "whisper")))
    assert not bool(find_silence(measure(whisper).levels).any())
    dip = noise(2, -20)
    for frames, silent in ((8, 0), (9, 1)):  # the hold is of eight
        dip[16000 : 16000 + frames * FRAME] = 0
        assert int(find_silence(measure(dip).levels).sum()) == silent


def whole(curve: Any, signal: Tensor) -> Tensor:
    return next(curve.over([signal]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("silence", SILENCES)
def test_gains_in_pieces_equal_the_whole_and_keep_the_length(level: str, silence: str) -> None:
    signal = torch.cat((talk(2.013, -15), noise(1.5, -70), talk(2, -35)))
    curve = make_gain_curve(measure(signal), level, silence)
    assert (curve is None) == ((level, silence) == (AS_RECORDED, AS_RECORDED))
    if curve is None:
        return
    together = whole(curve, signal)
    assert together.shape == signal.shape
    assert not torch.equal(together, signal)
    cuts = sorted(make_generator("cuts").integers(0, len(signal), 20).tolist())
    assert torch.equal(torch.cat(list(curve.over(signal.tensor_split(cuts)))), together)
    assert bool(curve.at(len(signal), len(signal) + 2 * FRAME).isfinite().all())


def test_muting_zeroes_room_noise_and_keeps_speech_bit_for_bit() -> None:
    signal = torch.cat((noise(1, -65, "room"), talk(2, -20), noise(2, -65, "room"), talk(1, -20)))
    meter = measure(signal)
    quiet = find_silence(meter.levels)
    changed = whole(make_gain_curve(meter, AS_RECORDED, MUTED), signal).reshape(-1, FRAME)
    assert torch.equal(changed[~quiet], signal.reshape(-1, FRAME)[~quiet])
    inner = quiet & quiet.roll(1) & quiet.roll(-1)
    assert int(inner.sum()) > 50
    assert not bool(changed[inner].any())
    assert bool((changed.abs() <= signal.reshape(-1, FRAME).abs()).all()), "ramps, too"
    assert not bool(quiet[FPS : 3 * FPS].any()), "speech"


@pytest.mark.parametrize("seconds", [2.0, 5.0, 30.0])
def test_evening_brings_passages_within_3_db(seconds: float) -> None:
    one, other = talk(seconds, -15, "one"), talk(seconds, -35, "other")
    signal = torch.cat((one, other, one, other))
    changed = whole(make_gain_curve(measure(signal), EVENED, AS_RECORDED), signal)
    parts = [db(part) for part in changed.tensor_split(4)]
    assert max(parts) - min(parts) <= 3
    assert db(changed[: len(one) // 2]) == pytest.approx(db(signal[: len(one) // 2]), abs=1), "not lowered"


def test_evening_changes_slowly() -> None:
    curve: Any = make_gain_curve(measure(torch.cat((talk(5, -15), talk(5, -35)))), EVENED, AS_RECORDED)
    gains = 20 * curve.edges.log10()
    assert float(gains.diff().abs().max()) <= 2.5, "decibels a frame"
    assert float(gains.max()) <= 20 + 1e-3


@pytest.mark.parametrize(("level", "most"), [(-70.0, 0.0), (-52.0, 0.0), (-45.0, 11.0)])
def test_room_noise_is_hardly_raised(level: float, most: float) -> None:
    signal = torch.cat((talk(3, -15), noise(3, level, "room"), talk(3, -15)))
    changed = whole(make_gain_curve(measure(signal), EVENED, AS_RECORDED), signal)
    inside = slice(round(3.5 * RATE), round(5.5 * RATE))
    assert db(changed[inside]) - db(signal[inside]) <= most + 0.1
    assert float((changed - signal)[: 2 * RATE].abs().max()) <= 0.3 * float(signal.abs().max())


HARD = {
    "digital silence": torch.zeros(RATE),
    "one sample": torch.ones(1),
    "one frame": talk(0.04, -20),
    "clipped": talk(2, 20).clamp(-1, 1),
    "very quiet": talk(2, -180),
    "offset alone": torch.full((RATE,), 0.5),
    "a click": torch.cat((torch.zeros(RATE), torch.ones(1), torch.zeros(RATE))),
    "huge": talk(2, 200),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("level", LEVELS)
def test_gains_are_finite_for_any_signal(name: str, level: str) -> None:
    signal = HARD[name]
    meter = measure(signal)
    assert bool((meter.levels >= loudness.MIN_DBFS).all())
    changed = whole(make_gain_curve(meter, level, MUTED), signal)
    assert changed.shape == signal.shape
    assert bool(changed.isfinite().all())
    if name in {"very quiet", "digital silence", "offset alone"}:
        assert not bool(changed.any()), "silence throughout"


def test_an_empty_signal_has_no_frames() -> None:
    empty = loudness.LoudnessMeter(RATE, FPS)
    assert empty.levels.shape == empty.peaks.shape == find_silence(empty.levels).shape == (0,)
    assert loudness.loud_level(empty.levels) == loudness.MIN_DBFS
    curve: Any = make_gain_curve(empty, EVENED, MUTED)
    assert bool(curve.at(0, 3).isfinite().all())
