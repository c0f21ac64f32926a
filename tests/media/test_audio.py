"""Recordings from files and in memory; A02 to A22 are rows of the catalogue of bad inputs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3.config import SegmentConfig
from hallo3.errors import AudioError, DependencyError
from hallo3.media import audio
from hallo3.media.audio import Recording, measure_recording, read_recording, stream_mono, to_mono
from hallo3.models import Models
from hallo3.noise import make_generator
from hallo3.pipeline import encode_speech
from hallo3.segments import plan_segments
from support.audio_files import encode_audio, wav
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message

HOUR = 3600
RATES = (8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return 0.1 * make_generator("noise").standard_normal((channels, samples), dtype="float32")


def sweep(rate: int) -> np.ndarray:
    """Two seconds that rise through all frequencies, with noise."""
    t = np.arange(2 * rate) / rate
    return np.float32(0.4 * np.sin(2 * np.pi * 0.12 * rate * t * t)) + noise(len(t))[0] / 2


def resample_as_librosa(recorded: np.ndarray, rate: int) -> np.ndarray:
    """What librosa's default does: soxr, then zeros or a cut to the rounded-up length."""
    length = -(-len(recorded) * RATE // rate)
    resampled = soxr.resample(recorded, rate, RATE, quality="soxr_hq")[:length]
    return np.pad(resampled, (0, length - len(resampled)))


@pytest.mark.parametrize("rate", RATES)
def test_resampling_is_librosa_s_whole_and_in_pieces(tmp_path: Path, rate: int) -> None:
    recorded = sweep(rate)
    expected = resample_as_librosa(recorded, rate)
    whole = to_mono(Recording(torch.from_numpy(recorded)[None], rate), RATE).numpy()
    assert np.array_equal(whole, expected)
    path = write_wav(tmp_path / "a.wav", recorded[None], rate, 4)
    pieces = torch.cat(list(stream_mono(path, RATE))).numpy()
    assert pieces.shape == expected.shape
    assert np.abs(pieces - expected).max() <= 1e-5


@pytest.mark.soak  # librosa imports for ten seconds
@pytest.mark.parametrize("rate", RATES)
def test_librosa_resamples_so(rate: int) -> None:
    librosa = pytest.importorskip("librosa")
    expected = librosa.resample(sweep(rate), orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    assert np.array_equal(resample_as_librosa(sweep(rate), rate), expected)


SIZES = [(1, 1), (1, 100001), (2, 54321), (6, 33333), (1, 331), *((1, 44100 + n) for n in range(4))]


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, RATE])
@pytest.mark.parametrize(("channels", "samples"), SIZES)
def test_pieces_equal_the_whole(tmp_path: Path, rate: int, channels: int, samples: int) -> None:
    path = write_wav(tmp_path / "a.wav", noise(samples, channels), rate)
    whole = to_mono(read_recording(path), RATE)
    pieces = list(stream_mono(path, RATE))
    assert all(piece.dtype == torch.float32 and 0 < len(piece) <= 2 * RATE for piece in pieces)
    mono = torch.cat(pieces)
    assert mono.shape == whole.shape
    assert float((mono - whole).abs().max()) <= 1e-5
    stats = measure_recording(path)
    assert (stats.samples, stats.channels, stats.sample_rate) == (samples, channels, rate)
    assert stats.length_at(RATE) == len(whole)
    assert torch.equal(torch.cat(list(stream_mono(path, RATE, stats))), mono)


def test_memory_is_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE * 20), RATE)
    decoded, real = 0, audio.read_pieces

    def count(*source: Any, **more: bool) -> Iterator[Recording]:
        nonlocal decoded
        for piece in real(*source, **more):
            decoded += piece.waveform.shape[1]
            yield piece

    stats, output = measure_recording(path), 0
    monkeypatch.setattr(audio, "read_pieces", count)
    for piece in stream_mono(path, 8000, stats):
        output += len(piece)
        assert decoded - 2 * output <= 3 * RATE


@pytest.mark.parametrize("rate", [RATE, 44100])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_two_channels_stay_and_others_are_mixed_and_doubled(tmp_path: Path, rate: int, channels: int) -> None:
    sound = tone(rate, 3.3, channels) * np.linspace(1, 0.5, channels, dtype=np.float32)[:, None]
    path = write_wav(tmp_path / "a.wav", sound, rate)
    stereo = torch.cat(list(audio.stream_stereo(path, 44100, measure_recording(path))), dim=1)
    mono = torch.cat(list(stream_mono(path, 44100)))
    assert stereo.shape == (2, len(mono))
    assert torch.allclose(stereo.mean(dim=0), mono, atol=1e-6)
    assert torch.equal(stereo[0], stereo[1]) == (channels != 2)


@pytest.mark.parametrize("fault", ["silence", "cancel"])
def test_a06_warnings_are_the_same_whole_and_in_pieces(tmp_path: Path, fault: str) -> None:
    one = tone(44100)
    content = np.concatenate((one, -one)) if fault == "cancel" else 0 * one
    path = write_wav(tmp_path / "a.wav", content, 44100, 4)
    with expect_message(fault) as by_whole:
        whole = to_mono(read_recording(path), RATE)
    with expect_message(fault) as by_pieces:
        pieces = stream_mono(path, RATE)
    assert by_pieces == by_whole
    assert len(by_whole) == 1
    assert torch.allclose(torch.cat(list(pieces)), whole, atol=1e-5, rtol=0)  # without another message
    assert bool(whole.any()) == (fault == "cancel"), "the first channel is used"


def test_impossible_recordings_and_a19_rates_are_refused() -> None:
    layouts = [torch.zeros(shape) for shape in ((1, 0), (0, 100), (3, 1, 100), (100,), (65, 100))]
    for waveform in (*layouts, torch.zeros(1, 100, dtype=torch.int16)):
        with pytest.raises(AudioError):
            to_mono(Recording(waveform, RATE), RATE)
    for rate in (0, -RATE, 1, audio.MIN_SAMPLE_RATE - 1, audio.MAX_SAMPLE_RATE + 1, 2**40):
        with pytest.raises(AudioError, match=rf"rate cannot be used(.|\n)*{rate} Hz(.|\n)*1000 to 768000"):
            to_mono(Recording(torch.ones(1, 5000), rate), RATE)
    for rate in (audio.MIN_SAMPLE_RATE, audio.MAX_SAMPLE_RATE):
        assert len(to_mono(Recording(torch.ones(1, rate), rate), RATE)) == RATE


def check_error(path: Path, text: str) -> None:
    """The same whole and in pieces."""
    with pytest.raises(AudioError, match=text) as error:
        to_mono(read_recording(path), RATE)
    with pytest.raises(AudioError) as other:
        stream_mono(path, RATE)
    assert str(error.value) == str(other.value)


def test_files_that_are_not_audio_are_refused_before_streaming(tmp_path: Path, samples: Path) -> None:
    header = write_wav(tmp_path / "header.wav", np.zeros((1, 0), np.float32), RATE)
    faults = {"empty.wav": b"", "text.mp3": b"hello", "page.wav": b"<html></html>" * 100}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
    written = [tmp_path / name for name in (*faults, "absent.wav")]
    for path in (header, *written, samples / "portrait.png"):
        check_error(path, re.escape(path.name))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_bad_sample_is_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    path, real = write_wav(tmp_path / "a.wav", noise(RATE * 5, 2), RATE), audio.read_pieces

    def spoil(*source: Any, **more: bool) -> Iterator[Recording]:
        for index, piece in enumerate(real(*source, **more)):
            if index >= 3:
                piece.waveform[1, 100:] = float(value)
            yield piece

    monkeypatch.setattr(audio, "read_pieces", spoil)
    check_error(path, r"the first at 3\.")


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(30000), RATE)
    for other in (noise(29999), noise(30000, 2)):
        pieces = stream_mono(path, RATE, measure_recording(path))
        write_wav(path, other, RATE)
        with pytest.raises(AudioError, match="changed"):
            list(pieces)
        write_wav(path, noise(30000), RATE)


def test_a_missing_resampler_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", noise(8000), 8000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    for call in (stream_mono, lambda *_: to_mono(read_recording(path), RATE)):
        with pytest.raises(DependencyError, match="pip install soxr"):
            call(path, RATE)


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([8000, RATE, 44100, 48000]), share=st.floats(0, 1, exclude_max=True))
def test_a02_less_than_a_frame_is_refused(rate: int, share: float) -> None:
    samples = max(1, int(share * rate * 639 / RATE))
    mono = to_mono(Recording(torch.ones(1, samples), rate), RATE)
    with pytest.raises(AudioError, match=r"too short to animate(.|\n)*0\.04 s"):
        plan_segments(len(mono), SegmentConfig())


@torch.inference_mode()
def test_a03_the_shortest_recordings_have_their_frames(nano: Models) -> None:
    sizes = (640, RATE, 1), (641, RATE, 2), (800, RATE, 2), (1764, 44100, 1), (2205, 44100, 2), (320, 8000, 1)
    for samples, rate, frames in sizes:
        speech = encode_speech(Recording(torch.from_numpy(tone(rate, 1.0))[:, :samples], rate), nano)
        assert speech.plan.frames == frames
        assert bool(speech.segment(0).isfinite().all())


def test_a12_more_than_12_hours_are_refused(tmp_path: Path) -> None:
    """In memory, in a FLAC whose header states them, and in a sparse WAV of silence."""
    flac, long = encode_audio(tmp_path / "a.flac", tone(8000), 8000, "flac"), tmp_path / "a.wav"
    content = bytearray(flac.read_bytes())
    at = content.index(b"fLaC") + 8 + 13  # the last 36 bits of 18 bytes: the number of samples
    content[at : at + 5] = (content[at] >> 4 << 36 | 13 * HOUR * 8000).to_bytes(5, "big")
    flac.write_bytes(content)
    with long.open("wb") as file:
        file.write(wav(rate=1000, bits=8, size=13 * HOUR * 1000))
        file.truncate(44 + 13 * HOUR * 1000)
    still = Recording(torch.zeros(1, 1).expand(2, 13 * HOUR * RATE), RATE)
    for read in (lambda: to_mono(still, RATE), lambda: measure_recording(flac), lambda: read_recording(long)):
        with pytest.raises(AudioError, match=r"too long(.|\n)*13\.00 h(.|\n)*at most 12 h"):
            read()
    for rate in (audio.MIN_SAMPLE_RATE, RATE, audio.MAX_SAMPLE_RATE):
        audio.check_audio_format(rate, 64, 12 * HOUR * rate)
        with pytest.raises(AudioError, match="too long"):
            audio.check_audio_format(rate, 64, 12 * HOUR * rate + 1)


def test_a12_a_length_not_in_the_header_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_HOURS", 3 / HOUR)
    with pytest.raises(AudioError, match="too long"):
        read_recording(encode_audio(tmp_path / "a.ogg", tone(48000, 4.0), 48000, "libopus"))


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a20_memory_layout_does_not_matter(rate: int) -> None:
    """Channels last, every second sample, or a part of a tensor."""
    plain = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    assert audio.resample(plain[0], RATE, RATE).data_ptr() == plain.data_ptr(), "nothing is copied"
    twice = plain.repeat_interleave(2, dim=1)[:, ::2]
    for other in (plain.T.contiguous().T, twice, torch.cat((plain, plain), dim=1)[:, :9000]):
        assert torch.equal(to_mono(Recording(other, rate), RATE), to_mono(Recording(plain, rate), RATE))
        assert torch.equal(other, plain), "it is not changed"
    assert torch.equal(*(to_mono(Recording(plain[:1].expand(count, -1), rate), RATE) for count in (4, 1)))


def test_a22_nothing_needs_torchaudio(tmp_path: Path) -> None:
    """It is often installed for another build of torch: then its import fails."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('made for another CUDA')")
    script = "import torch, hallo3.pipeline; from hallo3.media.audio import resample\n"
    script += "print(len(resample(torch.ones(44100), 44100, 16000))); import torchaudio"
    places = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    command, env = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": places}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["16000"], run.stderr
    assert run.stderr.rstrip().endswith("made for another CUDA")
