"""Long recordings read in pieces are what they are when read whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3.errors import AudioError, DependencyError
from hallo3.media import audio as long_sound
from hallo3.media import audio as sound
from hallo3.media.audio import Recording, measure_recording, read_recording, stream_mono, to_mono
from hallo3.noise import make_generator
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message, expect_no_message


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return 0.1 * make_generator("noise").standard_normal((channels, samples), dtype="float32")


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, RATE])
@pytest.mark.parametrize(("channels", "samples"), [(1, 1), (1, 100001), (2, 54321), (6, 33333), (1, 331)])
def test_pieces_are_the_whole(tmp_path: Path, rate: int, channels: int, samples: int) -> None:
    path = write_wav(tmp_path / "a.wav", noise(samples, channels), rate)
    whole = to_mono(read_recording(path), RATE)
    pieces = list(stream_mono(path, RATE))
    assert all(piece.dtype == torch.float32 and 0 < len(piece) <= 2 * RATE for piece in pieces)
    together = torch.cat(pieces)
    assert together.shape == whole.shape
    assert float((together - whole).abs().max()) <= 1e-5
    facts = measure_recording(path)
    assert (facts.samples, facts.channels, facts.sample_rate) == (samples, channels, rate)
    assert facts.length_at(RATE) == len(whole)
    assert torch.equal(torch.cat(list(stream_mono(path, RATE, facts))), together)


@pytest.mark.parametrize("samples", range(44100, 44120))
def test_any_length_has_librosa_s_number_of_samples(tmp_path: Path, samples: int) -> None:
    path = write_wav(tmp_path / "a.wav", noise(samples), 44100)
    assert sum(map(len, stream_mono(path, RATE))) == len(to_mono(read_recording(path), RATE))


def test_only_a_piece_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded before it is asked for, the second time."""
    path = write_wav(tmp_path / "a.wav", noise(RATE * 20), RATE)
    decoded, real = 0, sound.read_pieces

    def counted(path: Path) -> Iterator[Recording]:
        nonlocal decoded
        for piece in real(path):
            decoded += piece.waveform.shape[1]
            yield piece

    facts = measure_recording(path)
    monkeypatch.setattr(long_sound, "read_pieces", counted)
    given = 0
    for piece in stream_mono(path, 8000, facts):
        given += len(piece)
        assert decoded - 2 * given <= 3 * RATE


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AudioError) as caught:
        call()
    return str(caught.value)


def both_refusals(path: Path) -> tuple[str, str]:
    return refusal(lambda: to_mono(read_recording(path), RATE)), refusal(lambda: stream_mono(path, RATE))


def test_the_same_is_refused_before_anything_is_given(tmp_path: Path, samples: Path) -> None:
    faults = {"empty.wav": b"", "text.mp3": b"hello", "page.wav": b"<html></html>" * 100}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
    write_wav(tmp_path / "header.wav", np.zeros((1, 0), np.float32), RATE)
    paths = [tmp_path / name for name in (*faults, "header.wav", "absent.wav")]
    for path in [*paths, samples / "portrait.png"]:
        whole, pieces = both_refusals(path)
        assert whole == pieces


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_bad_sample_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE * 5, 2), RATE)

    def spoilt(path: Path) -> Iterator[Recording]:
        for index, piece in enumerate(original(path)):
            if index >= 3:
                piece.waveform[1, 100:] = value
            yield piece

    original = sound.read_pieces
    monkeypatch.setattr(sound, "read_pieces", spoilt)
    monkeypatch.setattr(long_sound, "read_pieces", spoilt)
    whole, pieces = both_refusals(path)
    assert whole == pieces
    assert "NaN or infinity at 3." in pieces


@pytest.mark.parametrize("fault", ["silence", "cancel"])
def test_warnings_are_the_same(tmp_path: Path, fault: str) -> None:
    one = tone(44100)
    content = np.concatenate((one, -one)) if fault == "cancel" else 0 * one
    path = write_wav(tmp_path / "a.wav", content, 44100, 4)
    with expect_message(fault) as told_whole:
        whole = to_mono(read_recording(path), RATE)
    with expect_message(fault) as told:
        pieces = stream_mono(path, RATE)
    assert list(told) == list(told_whole)
    with expect_no_message():
        assert torch.allclose(torch.cat(list(pieces)), whole, atol=1e-5, rtol=0)


def test_a_file_that_changes_is_told(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(30000), RATE)
    for other in (noise(29999), noise(30000, 2)):
        pieces = stream_mono(path, RATE, measure_recording(path))
        write_wav(path, other, RATE)
        with pytest.raises(AudioError, match="changed"):
            list(pieces)
        write_wav(path, noise(30000), RATE)


def test_a_missing_resampler_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", noise(8000), 8000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(DependencyError, match="pip install librosa"):
        stream_mono(path, RATE)
    monkeypatch.undo()
    assert sum(map(len, stream_mono(path, RATE))) == RATE
