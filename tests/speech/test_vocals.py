"""Vocals, through onnxruntime, with networks of the real one's shape whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.checkpoints import locate as places
from hallo3.checkpoints.locate import ModelFolder
from hallo3.errors import AudioError, CheckpointError, DependencyError
from hallo3.noise import make_generator
from hallo3.speech.vocals import (
    FILE,
    LENGTH,
    MARGIN,
    RATE,
    STEP,
    Separator,
    blend,
    cut,
    sound_of,
    spectrogram,
    windows,
)
from support import onnx_builder as onnx_files
from support.messages import expect_message
from support.onnx_builder import port

pytestmark = pytest.mark.any_message
SAME = onnx_files.separator()
BORDERS = [1, 2, STEP - MARGIN, STEP - MARGIN + 1, LENGTH - 2 * MARGIN, LENGTH, LENGTH + 1, 3 * STEP + 7]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[type[Separator]]:
    """Separators from the content of their file."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")

    def make(content: bytes = SAME) -> Separator:
        path = tmp_path / FILE
        path.write_bytes(content)
        return Separator(path, unverified=True)

    return make


def sine(samples: int, hertz: float, fades: bool = True) -> Tensor:
    """[samples]; swelling and fading, as its start and end would not be one frequency otherwise."""
    at = torch.arange(samples, dtype=torch.float64)
    swell = torch.sin(torch.pi * at / max(samples - 1, 1)) ** 2 if fades else 1
    return (0.5 * torch.sin(2 * torch.pi * hertz * at / RATE) * swell).float()


def noise(samples: int) -> Tensor:
    values = make_generator("vocals").standard_normal((2, samples), dtype="float32")
    return 0.1 * torch.from_numpy(values)


def through(separator: Separator, sound: Tensor, piece: int = 10007, loudest: float = 0.0) -> Tensor:
    pieces = separator.separate(sound.split(piece, dim=1), sound.shape[1], loudest)
    return torch.cat(list(pieces), dim=1)


@pytest.mark.parametrize("samples", BORDERS)
def test_windows_blend_to_one_and_keep_the_length(samples: int) -> None:
    ones = torch.ones(2, LENGTH)
    whole = torch.cat(list(blend((ones for _ in windows(samples)), samples)), dim=1)
    assert whole.shape == (2, samples)
    assert float((whole - 1).abs().max()) <= 1e-6
    sound = noise(samples)
    for size in (1 << 20, 4001):
        back = torch.cat(list(blend(cut(sound.split(size, dim=1), samples), samples)), dim=1)
        assert float((back - sound).abs().max()) <= 1e-6


@pytest.mark.parametrize("samples", [4410, STEP - MARGIN + 1, 20 * RATE + 17])
def test_a_network_that_returns_its_input_gives_back_the_recording(made: type, samples: int) -> None:
    sound = torch.stack((sine(samples, 440), sine(samples, 5000)))
    back = through(made(), sound)
    assert back.shape == sound.shape
    assert back.dtype == torch.float32
    assert float((back - sound).abs().max()) <= 1e-4 * 0.5


def test_the_size_of_pieces_does_not_matter(made: type) -> None:
    sound, separator = noise(10 * RATE), made(onnx_files.deaf_separator())
    whole = through(separator, sound, 10 * RATE)
    for size in (RATE, 100_003):
        assert torch.equal(through(separator, sound, size), whole)
    assert torch.allclose(through(made(onnx_files.separator(0.5)), sound), through(made(), sound) / 2)


def test_streamed_is_what_whole_arrays_give(made: type) -> None:
    """The rule of windows once more, over the whole recording at once, in float64."""
    samples = 13 * RATE
    sound, separator = noise(samples), made(onnx_files.deaf_separator())
    inner = LENGTH - 2 * MARGIN
    mixture = torch.zeros(2, MARGIN + samples + inner + MARGIN - samples % inner)
    mixture[:, MARGIN : MARGIN + samples] = sound
    total, weight = torch.zeros_like(mixture).double(), torch.zeros(mixture.shape[1]).double()
    for start in range(0, mixture.shape[1], STEP):
        part = mixture[:, start : start + LENGTH]
        window = torch.zeros(2, LENGTH)
        window[:, : part.shape[1]] = part
        answer = sound_of(separator.network(spectrogram(window))[0])[:, : part.shape[1]]
        hann = torch.hann_window(part.shape[1], periodic=False, dtype=torch.float64)
        total[:, start : start + LENGTH] += answer * hann
        weight[start : start + LENGTH] += hann
    whole = (total / weight)[:, MARGIN : MARGIN + samples]
    assert float((through(separator, sound) - whole).abs().max()) <= 1e-6


def changes(sound: Tensor, borders: Iterable[int]) -> tuple[float, float]:
    """The greatest second difference near borders, and elsewhere."""
    second = (sound[:, 2:] - 2 * sound[:, 1:-1] + sound[:, :-2]).abs().amax(dim=0)
    near = torch.zeros(len(second), dtype=torch.bool)
    for border in borders:
        near[max(border - 50, 0) : max(border + 50, 0)] = True
    return float(second[near].max()), float(second[~near].max())


def test_no_clicks_where_windows_meet(made: type) -> None:
    """A steady tone, and then windows that are answered at very different loudness."""
    samples = 20 * RATE
    sound = sine(samples, 330, fades=False).expand(2, -1)
    starts = [start - MARGIN for start, _ in windows(samples)]
    borders = [
        border for start in starts for border in (start, start + LENGTH) if 100 < border < samples - 100
    ]
    assert len(borders) >= 7
    near, elsewhere = changes(through(made(onnx_files.separator(0.5)), sound), borders)
    assert near <= elsewhere * 1.01
    gains = iter([1.0, 0.1] * len(starts))
    uneven = torch.cat(list(blend((next(gains) * w for w in cut([sound], samples)), samples)), dim=1)
    near, elsewhere = changes(uneven, borders)
    assert near <= elsewhere * 1.01


@pytest.mark.parametrize(("hertz", "share"), [(18500, 0.01), (8, 0.15), (60, 1), (17000, 1)])
def test_what_the_network_does_not_see_is_silent(made: type, hertz: float, share: float) -> None:
    sound = sine(10 * RATE, hertz).expand(2, -1)
    peak = float(through(made(), sound).abs().max()) / float(sound.abs().max())
    assert peak <= share if share < 1 else peak == pytest.approx(1, abs=1e-3)


def test_silence_stays_silent_whatever_the_network_says(made: type) -> None:
    """Its windows are not even computed."""
    for content in (onnx_files.separator(float("nan")), onnx_files.deaf_separator()):
        quiet = through(made(content), torch.zeros(2, 12 * RATE))
        assert quiet.shape == (2, 12 * RATE)
        assert not bool(quiet.any())


def test_an_answer_that_is_not_finite_is_said_with_its_place(made: type) -> None:
    sound = torch.zeros(2, 20 * RATE)
    sound[:, 11 * RATE : 12 * RATE] = noise(RATE)
    with pytest.raises(AudioError, match=r"(?s)answer cannot be used.*not finite, near 8\.9 s"):
        through(made(onnx_files.separator(float("nan"))), sound)


def test_a_loud_recording_is_quieter_for_the_network_and_not_for_us(made: type) -> None:
    sound, separator = noise(3 * RATE), made(onnx_files.deaf_separator())
    peak = float(sound.abs().max())
    shown = through(separator, sound * (0.9 / peak), loudest=0.9)
    assert torch.allclose(through(separator, sound, loudest=peak), through(separator, sound), atol=1e-7)
    for gain in (1 / peak, 8 / peak):
        loud = through(separator, sound * gain, loudest=gain * peak)
        assert torch.allclose(loud, shown * (gain * peak / 0.9), atol=1e-5 * gain)


def test_only_a_window_is_held_and_progress_is_told(made: type) -> None:
    sound, taken = noise(40 * RATE), 0

    def pieces() -> Iterator[Tensor]:
        nonlocal taken
        for piece in sound.split(RATE, dim=1):
            taken += piece.shape[1]
            yield piece

    told: list[tuple[int, int]] = []
    given = 0
    for piece in made().separate(pieces(), 40 * RATE, watch=lambda *done: told.append(done)):
        given += piece.shape[1]
        assert piece.shape[1] <= LENGTH
        assert taken - given <= LENGTH + RATE
    assert told[-1] == (40 * RATE, 40 * RATE)
    assert all(one < other for one, other in pairwise(told))

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(made().separate([sound], 40 * RATE, watch=stop))


@pytest.mark.parametrize(("shape", "told"), [((2, 100), 99), ((2, 100), 101), ((1, 100), 100), ((100,), 100)])
def test_another_stream_than_was_told_is_refused(shape: tuple[int, ...], told: int) -> None:
    with pytest.raises(ValueError, match=r"stream"):
        list(cut([torch.ones(shape)], told))


OTHER = {
    "a face model": onnx_files.recognizer(),
    "fewer bins": onnx_files.separator(shape=("batch", 4, 2048, 256)),
    "longer": onnx_files.separator(shape=("batch", 4, 3072, 512)),
    "mono": onnx_files.separator(shape=("batch", 2, 3072, 256)),
    "a waveform": onnx_files.separator(shape=("batch", 2, 261120)),
}


@pytest.mark.parametrize("content", OTHER.values(), ids=OTHER.keys())
def test_another_network_is_refused(made: type, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)separator's file holds another network.*Kim_Vocal_2"):
        _ = made(content).network


def test_another_answer_than_was_promised_is_refused(made: type) -> None:
    nodes = [onnx_files.node("Concat", "input input", "output", axis=1)]
    ports = [port("input", [1, 4, 3072, 256])], [port("output", ["batch", "channels", "bins", 256])]
    with pytest.raises(CheckpointError, match=r"(?s)another network.*\[1, 8, 3072, 256\]"):
        through(made(onnx_files.model(nodes, [], *ports)), noise(100))


def test_what_is_missing_is_named_with_its_source_and_terms(
    tmp_path: Path, made: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)without a licence.*audio_separator of fudan"):
        _ = Separator(tmp_path / "absent" / FILE).network
    separator = made()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"(?s)Separating vocals needs.*pip install onnxruntime"):
        _ = separator.network


def test_a_file_that_is_not_the_published_one_is_warned_of(made: type) -> None:
    with expect_message(r"is not the published file"):
        _ = made().network


def test_the_file_is_found_where_others_keep_it(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    assert folder.vocals is None
    for place in reversed(places.VOCALS):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
        assert folder.vocals == tmp_path / place
        assert folder.vocals.name == FILE
    given = tmp_path / "elsewhere.onnx"
    assert ModelFolder(tmp_path, {"vocals": given}).vocals == given
