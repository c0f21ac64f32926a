"""Every way to the encoder's sample rate is librosa's, and its soxr's."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from hallo3.media.audio import Recording, stream_mono, to_mono
from hallo3.noise import make_generator
from support.audio_samples import RATE, write_wav

RATES = (8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
NEAR = 1e-3


def sweep(rate: int) -> np.ndarray:
    """Two seconds that rise through all frequencies, with noise."""
    t = np.arange(2 * rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 0.12 * rate * t * t)
    return (tone + 0.05 * make_generator("noise").standard_normal(len(t))).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_it_is_librosa_s_whole_and_in_pieces(tmp_path: Path, rate: int) -> None:
    recorded = sweep(rate)
    wanted = librosa.resample(recorded, orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    found = to_mono(Recording(torch.from_numpy(recorded)[None], rate), RATE).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= NEAR
    path = write_wav(tmp_path / "a.wav", recorded[None], rate, 4)
    pieces = torch.cat(list(stream_mono(path, RATE))).numpy()
    assert pieces.shape == wanted.shape
    assert np.abs(pieces - wanted).max() <= NEAR


@pytest.mark.parametrize("rate", RATES)
def test_nothing_folds_back(rate: int) -> None:
    """A tone that the encoder's rate cannot hold is gone, one that it can stays."""
    t = np.arange(rate) / rate
    for hertz, wanted in ((1000.0, 0.5), (9000.0, 0.0)):
        if hertz >= rate / 2:
            continue
        tone = (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)
        found = to_mono(Recording(torch.from_numpy(tone)[None], rate), RATE)[2000:-2000]
        assert float(found.abs().max()) == pytest.approx(wanted, abs=2e-3)
