"""Recordings as people have them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hallo3.errors import AudioError
from hallo3.media.audio import Recording, read_recording, resample, to_mono
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message


def encode(path: Path, samples: np.ndarray, rate: int, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        layout = "mono" if samples.shape[0] == 1 else "stereo"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        to_codec = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        for piece in to_codec.resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_is_read_to_scale(tmp_path: Path, width: int, channels: int) -> None:
    samples = tone(RATE, channels=channels)
    recording = read_recording(write_wav(tmp_path / "a.wav", samples, RATE, width))
    assert recording.sample_rate == RATE
    assert recording.waveform.shape == samples.shape
    assert np.abs(recording.waveform.numpy() - samples).max() < (0.01 if width == 1 else 1e-4)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.flac", "flac"), ("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.mkv", "pcm_s16le")]
)
def test_other_formats_are_read(tmp_path: Path, name: str, codec: str) -> None:
    recording = read_recording(encode(tmp_path / name, tone(44100, channels=2), 44100, codec))
    assert recording.waveform.shape[0] == 2
    assert abs(recording.seconds - 0.5) < 0.06


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_comes_to_the_encoder_s(rate: int) -> None:
    recording = Recording(torch.from_numpy(tone(rate)), rate)
    mono = to_mono(recording, RATE)
    assert abs(len(mono) - RATE // 2) <= 1
    inner = slice(400, 7500)
    wanted = torch.from_numpy(tone(RATE)[0])
    assert np.corrcoef(mono[inner], wanted[inner])[0, 1] > 0.99
    assert resample(mono, RATE, RATE) is mono


def test_equal_channels_mix_to_themselves() -> None:
    samples = torch.from_numpy(tone(RATE))
    both = to_mono(Recording(samples.repeat(2, 1), RATE), RATE)
    assert torch.equal(both, samples[0])


def test_opposite_channels_are_told_and_the_first_is_used() -> None:
    samples = torch.from_numpy(tone(RATE))
    with expect_message("cancel"):
        mono = to_mono(Recording(torch.cat((samples, -samples)), RATE), RATE)
    assert torch.equal(mono, samples[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_sample_is_located(value: float) -> None:
    samples = torch.zeros(1, RATE)
    samples[0, 4000:] = value
    with pytest.raises(AudioError, match=r"0\.250 s"):
        to_mono(Recording(samples, RATE), RATE)


@pytest.mark.parametrize(
    "recording",
    [
        Recording(torch.zeros(1, 0), RATE),
        Recording(torch.zeros(0, 100), RATE),
        Recording(torch.zeros(3, 1, 100), RATE),
        Recording(torch.zeros(100), RATE),
        Recording(torch.zeros(1, 100, dtype=torch.int16), RATE),
        Recording(torch.zeros(1, 100), 0),
        Recording(torch.zeros(1, 100), -RATE),
    ],
)
def test_impossible_recordings_are_refused(recording: Recording) -> None:
    with pytest.raises(AudioError):
        to_mono(recording, RATE)


def test_the_waveform_is_not_changed() -> None:
    samples = torch.from_numpy(tone(44100, channels=2))
    before = samples.clone()
    to_mono(Recording(samples, 44100), RATE)
    assert torch.equal(samples, before)


def test_files_that_are_no_sound_are_refused(tmp_path: Path, samples: Path) -> None:
    faults = {"empty.wav": b"", "text.mp3": b"hello", "page.wav": b"<html></html>" * 100}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError, match=name):
            read_recording(tmp_path / name)
    with pytest.raises(AudioError, match="no file"):
        read_recording(tmp_path / "absent.wav")
    with pytest.raises(AudioError, match="portrait"):
        read_recording(samples / "portrait.png")


def test_a_header_without_samples_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "header.wav", np.zeros((1, 0), np.float32), RATE)
    with pytest.raises(AudioError):
        read_recording(path)


def test_a_playlist_cannot_make_us_open_other_files(tmp_path: Path) -> None:
    write_wav(tmp_path / "secret.wav", tone(RATE), RATE)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError):
        read_recording(playlist)
