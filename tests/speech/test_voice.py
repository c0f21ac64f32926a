"""A recording's voice is as long as it is, and is the recording for a network that returns its input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3.errors import AudioError, CheckpointError
from hallo3.media.audio import measure_recording, read_recording, stream_mono, stream_stereo
from hallo3.speech.vocals import FILE, Separator, stream_voice, voice_of
from support import onnx_builder as onnx_files
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message

pytestmark = pytest.mark.any_message


@pytest.fixture
def separator(tmp_path: Path) -> Separator:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / FILE
    path.write_bytes(onnx_files.separator())
    return Separator(path, unverified=True)


def swelling(rate: int, seconds: float, channels: int) -> np.ndarray:
    """A tone in every channel, each at another loudness."""
    sound = tone(rate, seconds, channels) * np.linspace(1, 0.5, channels, dtype=np.float32)[:, None]
    return sound * np.sin(np.linspace(0, np.pi, sound.shape[1], dtype=np.float32)) ** 2


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, RATE])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_voice_is_the_recording_for_a_network_that_returns_its_input(
    tmp_path: Path, separator: Separator, rate: int, channels: int
) -> None:
    path = write_wav(tmp_path / "a.wav", swelling(rate, 7.01, channels), rate)
    facts = measure_recording(path)
    voice = torch.cat(list(stream_voice(path, RATE, facts, separator)))
    mono = torch.cat(list(stream_mono(path, RATE, facts)))
    assert voice.shape == mono.shape == (facts.length_at(RATE),)
    assert float((voice - mono).abs().max()) <= 2e-5
    assert float(mono.abs().max()) > 0.3
    assert torch.equal(voice_of(read_recording(path), RATE, separator), voice)


@pytest.mark.parametrize("samples", [1, 2, 331, *range(44100, 44104)])
def test_any_length_is_kept(tmp_path: Path, separator: Separator, samples: int) -> None:
    for rate in (11025, 44100, 48000):
        path = write_wav(tmp_path / "a.wav", 0.1 * np.ones((1, samples), np.float32), rate)
        facts = measure_recording(path)
        pieces = list(stream_voice(path, RATE, facts, separator))
        assert sum(map(len, pieces)) == facts.length_at(RATE) == sum(map(len, stream_mono(path, RATE)))
        assert all(map(len, pieces))


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_stereo_is_kept_and_all_else_is_mixed_and_doubled(tmp_path: Path, rate: int) -> None:
    for channels in (1, 2, 6):
        path = write_wav(tmp_path / "a.wav", swelling(rate, 3.3, channels), rate)
        stereo = torch.cat(list(stream_stereo(path, 44100)), dim=1)
        mono = torch.cat(list(stream_mono(path, 44100)))
        assert stereo.shape == (2, len(mono))
        assert torch.allclose(stereo.mean(dim=0), mono, atol=1e-6)
        assert torch.equal(stereo[0], stereo[1]) == (channels != 2)
        if channels == 2:
            assert torch.allclose(stereo[0], 2 * stereo[1], atol=1e-4)


def test_channels_that_cancel_each_other_are_not_lost(tmp_path: Path, separator: Separator) -> None:
    one = swelling(44100, 2, 1)
    path = write_wav(tmp_path / "a.wav", np.concatenate((one, -one)), 44100, 4)
    facts = measure_recording(path)
    with expect_message("cancel"):
        voice = torch.cat(list(stream_voice(path, RATE, facts, separator)))
    assert float(voice.abs().max()) == pytest.approx(0.5, abs=0.01)


def test_silence_has_a_voice_of_silence(tmp_path: Path, separator: Separator) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros((2, 44100), np.float32), 44100)
    with expect_message("silence"):
        pieces = list(stream_voice(path, RATE, measure_recording(path), separator))
    assert torch.equal(torch.cat(pieces), torch.zeros(RATE))


def test_faults_are_named_before_anything_is_given(tmp_path: Path, separator: Separator) -> None:
    path = write_wav(tmp_path / "a.wav", swelling(RATE, 1, 1), RATE)
    with pytest.raises(CheckpointError, match="separator's file is missing"):
        stream_voice(path, RATE, measure_recording(path), Separator(tmp_path / "absent.onnx"))
    recording = read_recording(path)
    recording.waveform[0, 100] = float("nan")
    with pytest.raises(AudioError, match="not numbers"):
        voice_of(recording, RATE, separator)
