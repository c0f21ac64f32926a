from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.checkpoints import locate as places
from hallo3.checkpoints.locate import ModelFolder
from hallo3.errors import AudioError, CheckpointError
from hallo3.media.audio import Recording, compute_stats, measure_recording, read_recording, stream_mono
from hallo3.noise import make_generator
from hallo3.progress import ProgressCallback
from hallo3.speech import vocals
from hallo3.speech.vocals import MARGIN, RATE, STEP, VOCALS_FILENAME, WINDOW, Separator, cut_windows
from support import onnx_builder
from support.audio_samples import RATE as SPEECH_RATE
from support.audio_samples import tone, write_wav
from support.messages import expect_message
from support.onnx_builder import node, port

pytestmark = pytest.mark.any_message
SAME = onnx_builder.separator()
BORDERS = [1, 2, STEP - MARGIN, STEP - MARGIN + 1, WINDOW - 2 * MARGIN, WINDOW, WINDOW + 1, 3 * STEP + 7]
MakeSeparator = Callable[..., Separator]


@pytest.fixture
def make(tmp_path: Path) -> MakeSeparator:
    """Separators from the content of their file."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")

    def write(content: bytes = SAME) -> Separator:
        (tmp_path / VOCALS_FILENAME).write_bytes(content)
        return Separator(tmp_path / VOCALS_FILENAME, unverified=True)

    return write


def sine(samples: int, hertz: float, fades: bool = True) -> Tensor:
    """[samples]; fading in and out, since an abrupt start is not one frequency."""
    at = torch.arange(samples, dtype=torch.float64)
    envelope = torch.sin(torch.pi * at / max(samples - 1, 1)) ** 2 if fades else 1
    return (0.5 * torch.sin(2 * torch.pi * hertz * at / RATE) * envelope).float()


def noise(samples: int) -> Tensor:
    return 0.1 * torch.from_numpy(make_generator("vocals").standard_normal((2, samples), dtype="float32"))


def separate(separator: Separator, sound: Tensor, piece: int = 10007, peak: float = 0.0) -> Tensor:
    pieces = separator.separate(sound.split(piece, dim=1), sound.shape[1], peak)
    return torch.cat(list(pieces), dim=1)


def join(windows: Iterable[Tensor], samples: int) -> Tensor:
    return torch.cat(list(vocals.overlap_add(windows, samples)), dim=1)


def fading_tone(rate: int, seconds: float, channels: int) -> np.ndarray:
    """Each channel at another loudness."""
    sound = tone(rate, seconds, channels) * np.linspace(1, 0.5, channels, dtype=np.float32)[:, None]
    return sound * np.sin(np.linspace(0, np.pi, sound.shape[1], dtype=np.float32)) ** 2


@pytest.mark.parametrize("samples", BORDERS)
def test_windows_add_up_to_the_recording(samples: int) -> None:
    sound = noise(samples)
    for size in (1 << 20, 4001):
        whole = join(cut_windows(sound.split(size, dim=1), samples), samples)
        torch.testing.assert_close(whole, sound, atol=1e-6, rtol=0)


def test_pieces_equal_the_whole(make: MakeSeparator) -> None:
    """The rule of windows again, over the whole recording at once, in float64."""
    samples = 13 * RATE
    sound, separator = noise(samples), make(onnx_builder.deaf_separator())
    inner = WINDOW - 2 * MARGIN
    mixture = F.pad(sound, (MARGIN, inner + MARGIN - samples % inner))
    total, weight = torch.zeros_like(mixture).double(), torch.zeros(mixture.shape[1]).double()
    for start in range(0, mixture.shape[1], STEP):
        length = min(WINDOW, mixture.shape[1] - start)
        window = F.pad(mixture[:, start : start + WINDOW], (0, WINDOW - length))
        output = vocals.invert_spectrogram(separator.network(vocals.spectrogram(window))[0])
        hann = torch.hann_window(length, periodic=False, dtype=torch.float64)
        total[:, start : start + WINDOW] += output[:, :length] * hann
        weight[start : start + WINDOW] += hann
    whole = (total / weight)[:, MARGIN : MARGIN + samples]
    streamed = separate(separator, sound)
    torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0, check_dtype=False)
    for size in (RATE, 100_003, samples):
        assert torch.equal(separate(separator, sound, size), streamed)


def test_no_clicks_where_windows_meet() -> None:
    """A steady tone in windows of very different loudness: second differences near borders, and elsewhere."""
    samples, sound = 20 * RATE, sine(20 * RATE, 330, fades=False).expand(2, -1)
    starts = [start - MARGIN for start, _ in vocals.window_spans(samples)]
    borders = [b for start in starts for b in (start, start + WINDOW) if 100 < b < samples - 100]
    assert len(borders) >= 7
    gains = iter([1.0, 0.1] * len(starts))
    windows = (next(gains) * window for window in cut_windows([sound], samples))
    joined = join(windows, samples)
    second = (joined[:, 2:] - 2 * joined[:, 1:-1] + joined[:, :-2]).abs().amax(dim=0)
    near = torch.zeros(len(second), dtype=torch.bool)
    for border in borders:
        near[border - 50 : border + 50] = True
    assert second[near].max() <= second[~near].max() * 1.01


def test_frequencies_that_the_network_lacks_are_silent(make: MakeSeparator) -> None:
    for hertz, least, most in ((18500, 0, 0.01), (8, 0, 0.15), (60, 0.999, 1.001), (17000, 0.999, 1.001)):
        sound = sine(10 * RATE, hertz).expand(2, -1)
        assert least <= float(separate(make(), sound).abs().max() / sound.abs().max()) <= most


def test_an_output_that_is_not_finite_is_an_error_with_its_time(make: MakeSeparator) -> None:
    sound, separator = torch.zeros(2, 20 * RATE), make(onnx_builder.separator(float("nan")))
    assert torch.equal(separate(separator, sound), sound), "silence is skipped"
    sound[:, 11 * RATE : 12 * RATE] = noise(RATE)
    with pytest.raises(AudioError, match=r"(?s)output cannot be used.*NaN or infinity near 8\.9 s"):
        separate(separator, sound)


def test_a_loud_recording_is_scaled_down_for_the_network_only(make: MakeSeparator) -> None:
    sound, separator = noise(3 * RATE), make(onnx_builder.deaf_separator())
    peak = float(sound.abs().max())
    at_limit = separate(separator, sound * (0.9 / peak), peak=0.9)
    assert torch.allclose(separate(separator, sound, peak=peak), separate(separator, sound), atol=1e-7)
    for loud in (1, 8):
        found = separate(separator, sound * (loud / peak), peak=loud)
        assert torch.allclose(found, at_limit * (loud / 0.9), atol=1e-5 * loud / peak)


def test_memory_is_a_window_and_progress_reaches_its_total(make: MakeSeparator) -> None:
    sound, taken, counts = noise(40 * RATE), 0, list[int]()

    def pieces() -> Iterator[Tensor]:
        nonlocal taken
        for piece in sound.split(RATE, dim=1):
            taken += piece.shape[1]
            yield piece

    @contextmanager
    def count(what: str, total: int) -> Generator[ProgressCallback]:
        yield counts.append
        assert (what, total) == ("separating vocals", sum(counts))

    output = 0
    for piece in make().separate(pieces(), 40 * RATE, open_progress=count):
        output += piece.shape[1]
        assert piece.shape[1] <= WINDOW
        assert taken - output <= WINDOW + RATE
    assert sum(counts) == 40 * RATE


def test_a_stream_of_another_length_or_layout_is_refused() -> None:
    for shape, samples in (((2, 100), 99), ((2, 100), 101), ((1, 100), 100), ((100,), 100)):
        with pytest.raises(ValueError, match=r"stream"):
            list(cut_windows([torch.ones(shape)], samples))


PORTS = [port("input", [1, 4, 3072, 256])], [port("output", ["batch", "channels", "bins", 256])]
OTHER_NETWORKS = {
    "a face model": onnx_builder.recognizer(),
    "fewer bins": onnx_builder.separator(shape=("batch", 4, 2048, 256)),
    "longer": onnx_builder.separator(shape=("batch", 4, 3072, 512)),
    "mono": onnx_builder.separator(shape=("batch", 2, 3072, 256)),
    "another output": onnx_builder.model([node("Concat", "input input", "output", axis=1)], [], *PORTS),
}


@pytest.mark.parametrize("content", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS.keys())
def test_another_network_is_refused(make: MakeSeparator, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)separator's file holds another network.*Kim_Vocal_2"):
        separate(make(content), noise(100))


def test_the_file_may_be_in_the_folders_of_other_packs(tmp_path: Path) -> None:
    assert ModelFolder(tmp_path).vocals is None
    for path in (tmp_path / place for place in reversed(places.VOCALS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        assert (ModelFolder(tmp_path).vocals, path.name) == (path, VOCALS_FILENAME)
    assert ModelFolder(tmp_path, {"vocals": tmp_path / "a.onnx"}).vocals == tmp_path / "a.onnx"


def test_unchanged_vocals_are_the_recording(tmp_path: Path, make: MakeSeparator) -> None:
    separator = make()
    for rate, channels in ((8000, 1), (22050, 2), (44100, 1), (44100, 6), (SPEECH_RATE, 2)):
        path = write_wav(tmp_path / "a.wav", fading_tone(rate, 7.01, channels), rate)
        stats, short = measure_recording(path), Recording(0.1 * torch.ones(channels, 331), rate)
        separated = torch.cat(list(vocals.stream_vocals(path, SPEECH_RATE, stats, separator)))
        mono = torch.cat(list(stream_mono(path, SPEECH_RATE, stats)))
        assert len(mono) == stats.length_at(SPEECH_RATE)
        torch.testing.assert_close(separated, mono, atol=2e-5, rtol=0)
        assert float(mono.abs().max()) > 0.3
        assert torch.equal(vocals.separate_vocals(read_recording(path), SPEECH_RATE, separator), separated)
        samples = len(vocals.separate_vocals(short, SPEECH_RATE, separator))
        assert samples == compute_stats(short).length_at(SPEECH_RATE)


def test_vocals_of_channels_that_cancel_are_those_of_the_first(tmp_path: Path, make: MakeSeparator) -> None:
    one = fading_tone(44100, 2, 1)
    path = write_wav(tmp_path / "a.wav", np.concatenate((one, -one)), 44100, 4)
    with expect_message("cancel"):
        separated = torch.cat(list(vocals.stream_vocals(path, SPEECH_RATE, measure_recording(path), make())))
    assert float(separated.abs().max()) == pytest.approx(0.5, abs=0.01)


def test_errors_are_raised_before_anything_is_separated(tmp_path: Path, make: MakeSeparator) -> None:
    path = write_wav(tmp_path / "a.wav", fading_tone(SPEECH_RATE, 1, 1), SPEECH_RATE)
    with pytest.raises(CheckpointError, match=r"(?s)file is missing.*without a licence.*of fudan"):
        vocals.stream_vocals(path, SPEECH_RATE, measure_recording(path), Separator(tmp_path / "absent.onnx"))
    recording = read_recording(path)
    recording.waveform[0, 100] = float("nan")
    with pytest.raises(AudioError, match="NaN or infinite"):
        vocals.separate_vocals(recording, SPEECH_RATE, make())
