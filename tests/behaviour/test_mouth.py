"""The mouth rule: loudness opens, brightness widens, gain does not matter."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from behaviour.mouth import compute_mouth, normalise
from hallo3.speech.encoder import normalize

PER_FRAME = 640
FRAMES = 50


def make_tone(frames: int, hertz: float = 300.0, level: float = 0.3) -> NDArray[np.float32]:
    times = np.arange(frames * PER_FRAME) / 16000
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def make_syllables() -> NDArray[np.float32]:
    """Loud at frames 10..15, a quarter as loud at 30..35."""
    sound = np.zeros(FRAMES * PER_FRAME, np.float32)
    sound[10 * PER_FRAME : 15 * PER_FRAME] = make_tone(5)
    sound[30 * PER_FRAME : 35 * PER_FRAME] = make_tone(5, level=0.075)
    return sound


def test_silence_is_closed() -> None:
    mouth = compute_mouth(np.zeros(FRAMES * PER_FRAME), FRAMES)
    assert np.array_equal(mouth.open, np.zeros(FRAMES))
    assert np.allclose(mouth.wide, 0.5)


def test_a_louder_syllable_opens_more() -> None:
    opening = compute_mouth(make_syllables(), FRAMES).open
    assert opening[12] > opening[32] + 0.2 > 0.3
    assert opening[20:28].max() == 0


def test_the_gain_does_not_matter() -> None:
    sounds = make_syllables(), 0.25 * make_syllables() + 0.01
    one, other = (compute_mouth(sound, FRAMES) for sound in sounds)
    assert np.allclose(one.open, other.open, atol=1e-4)
    assert np.allclose(one.wide, other.wide, atol=2e-2)


@pytest.mark.parametrize("frame", [0, 7, FRAMES - 1])
def test_a_burst_opens_its_own_frame(frame: int) -> None:
    sound = np.zeros(FRAMES * PER_FRAME, np.float32)
    sound[frame * PER_FRAME : (frame + 1) * PER_FRAME] = make_tone(1)
    opening = compute_mouth(sound, FRAMES).open
    assert int(opening.argmax()) == frame
    assert set(np.flatnonzero(opening)) <= {frame - 1, frame, frame + 1}


def test_bright_sounds_are_wide() -> None:
    dark, bright = (compute_mouth(make_tone(FRAMES, hertz), FRAMES).wide for hertz in (300.0, 2500.0))
    assert dark.max() < 0.1
    assert bright[1:-1].min() > 0.9


@pytest.mark.parametrize("frames", [FRAMES - 10, FRAMES, FRAMES + 10])
def test_the_number_of_frames_is_exact(frames: int) -> None:
    mouth = compute_mouth(torch.from_numpy(make_tone(FRAMES)), frames)
    for values in mouth:
        assert (values.shape, values.dtype) == ((frames,), np.float32)
        assert 0 <= values.min() <= values.max() <= 1
    assert mouth.open[FRAMES + 1 :].sum() == 0


def test_the_recording_is_normalised_as_by_the_encoder() -> None:
    sound = torch.from_numpy(make_syllables()) + 0.1
    assert np.allclose(normalize(sound).numpy(), normalise(sound), atol=1e-4)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mono waveform \[samples\], not \[2, 640\]"):
        compute_mouth(np.zeros((2, 640)), 1)
