import gc
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model

from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import BUILT_IN, SPEECH_ENCODERS, SegmentConfig
from hallo3.errors import CheckpointError, OutputError
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.noise import make_generator
from hallo3.progress import OpenProgress, ProgressCallback, no_display
from hallo3.quantization import PRECISIONS
from hallo3.segments import plan_segments
from hallo3.speech import encoder
from hallo3.speech.array_file import write_array_file
from hallo3.speech.encoder import compute_features, encode_waveform
from hallo3.speech.features import Windows
from hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2

CPU = torch.device("cpu")
SEGMENT = SegmentConfig(frames=17, height=32, width=32)
MAX_ERROR = 1e-5
SMALL_PIECES = pytest.mark.usefixtures("small_pieces")


@cache
def network(size: str) -> nn.Module:
    built = build_wav2vec2(SPEECH_ENCODERS[size])
    built.load_state_dict(make_random_state(built, f"7|{size}"), assign=True)
    return built.eval()


def signal(samples: int) -> Tensor:
    return torch.from_numpy(make_generator("signal").standard_normal(samples, dtype="float32")) * 0.1 + 0.02


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"CONV_FEATURES": 7, "FRAMES": 13, "KEYS": 150, "SCORES": 500}.items():
        monkeypatch.setattr(encoder, name, size)


class Encoding:
    """One signal that is encoded in pieces, in a folder."""

    def __init__(self, size: str, samples: int, folder: Path) -> None:
        self.parts, self.plan = split_wav2vec2(network(size)), plan_segments(samples, SEGMENT)
        self.samples = write_array_file(folder / "signal.f32", signal(samples)[:, None].split(5000), 1)
        self.folder = folder / "features"
        with torch.inference_mode():
            self.exact = encode_waveform(self.parts, signal(samples), self.plan, CPU)

    def run(self, open_progress: OpenProgress = no_display, windows: Windows | None = None) -> Tensor:
        """All features; only the layers' files may remain."""
        places = self.parts, self.samples, self.plan, CPU, self.folder
        read = encoder.encode_array_file(*places, windows=windows, open_progress=open_progress)
        names = [f"layer_{index:02}.f32" for index in range(len(self.parts.layers))]
        assert sorted(path.name for path in self.folder.iterdir()) == names
        features = read(range(self.plan.padded))
        assert torch.equal(read(range(3, 9)), features[3:9])
        return features

    def error(self, open_progress: OpenProgress = no_display) -> float:
        return float((self.run(open_progress) - self.exact).abs().max())


@SMALL_PIECES
@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("samples", [640, 641, 17 * 640, 52800])
def test_pieces_equal_the_whole(tmp_path: Path, size: str, samples: int) -> None:
    assert Encoding(size, samples, tmp_path).error() <= MAX_ERROR


def test_rows_of_an_hour_are_interpolated_as_torch_does(tmp_path: Path) -> None:
    for rows, frames in ((179_999, 90_000), (180_003, 90_014), (34, 34), (50, 1), (1, 9)):
        content = torch.from_numpy(make_generator("rows").standard_normal((rows, 2), dtype="float32"))
        file, starts = write_array_file(tmp_path / "rows.f32", [content], 2), range(0, frames, 997)
        expected = F.interpolate(content.T[None], size=frames, mode="linear", align_corners=True)[0].T
        pieces = [encoder.interpolate_rows(file, frames, at, min(at + 997, frames)) for at in starts]
        assert torch.allclose(torch.cat(pieces), expected, atol=1e-6, rtol=0)


def test_mean_and_variance_do_not_depend_on_the_pieces() -> None:
    values = 1000 + signal(10007).reshape(1, -1).repeat(2, 1)
    variance, mean = torch.var_mean(values.double(), dim=1, correction=0)
    found = encoder.mean_and_variance(values.split(613, dim=1))
    assert torch.allclose(found[0], mean, rtol=1e-8)
    assert torch.allclose(found[1], variance, rtol=1e-4)


@SMALL_PIECES
def test_progress_reaches_its_total(tmp_path: Path) -> None:
    encoding, counts = Encoding("nano", 52800, tmp_path), list[int]()

    @contextmanager
    def count(_: str, total: int) -> Generator[ProgressCallback]:
        counts[:] = []
        yield counts.append
        assert sum(counts) == total

    for least, most in ((100, 10**6), (1, 1)):  # complete layers are not computed again
        encoding.run(count)
        assert least <= len(counts) <= most


@SMALL_PIECES
def test_an_interruption_leaves_complete_files_and_is_resumed(tmp_path: Path) -> None:
    encoding, calls = Encoding("tiny", 20000, tmp_path), list[int]()

    def advance(amount: int) -> None:
        calls.append(amount)
        if len(calls) > 40:
            raise KeyboardInterrupt

    for _ in range(10):
        calls[:] = []
        try:
            assert encoding.error(lambda *_: nullcontext(advance)) <= MAX_ERROR
            return
        except KeyboardInterrupt:
            assert not list(encoding.folder.glob("*.unfinished"))
    pytest.fail("never finished")


def test_a_missing_or_damaged_layer_is_computed_from_the_one_before(tmp_path: Path) -> None:
    encoding = Encoding("tiny", 20000, tmp_path)
    encoding.run()
    last = encoding.folder / "layer_02.f32"
    before = {path: path.stat().st_mtime_ns for path in encoding.folder.iterdir()}
    encoding.samples.remove()
    last.write_bytes(last.read_bytes()[:-1])
    assert encoding.error() <= MAX_ERROR
    same = {path for path, time in before.items() if path.stat().st_mtime_ns == time}
    assert same == before.keys() - {last}
    (encoding.folder / "layer_00.f32").unlink()
    with pytest.raises(OutputError, match=r"signal\.f32: missing"):
        encoding.run()


@SMALL_PIECES
def test_a_single_window_is_exact(tmp_path: Path) -> None:
    encoding = Encoding("tiny", 40000, tmp_path)
    exact = encoding.run()
    for frames, overlap in ((68, 10), (1000, 900)):
        encoding.folder = tmp_path / str(frames)
        assert torch.equal(encoding.run(windows=Windows(frames, overlap)), exact)


@torch.inference_mode()
def test_windows_approach_the_exact_features_as_they_grow(tmp_path: Path, samples: Path) -> None:
    """The built-in encoder, relative to how much its features vary."""
    spoken = read_recording(samples / "speech.wav").waveform[0]
    waveform = torch.cat([spoken * factor for factor in (1, 0.5, 0.8, 0.3)])
    with load_models(FOLDER, CPU, PRECISIONS["fp32"]).speech as built_in:
        parts, plan = split_wav2vec2(built_in), plan_segments(len(waveform), BUILT_IN.segment)
        exact = encode_waveform(parts, waveform, plan, CPU)[: plan.frames]
        distances: list[float] = []
        for seconds in (2, 6, 12):
            windows = Windows(seconds * 25, seconds * 5)
            read = compute_features(parts, waveform, plan, CPU, windows=windows, directory=tmp_path)
            error = (read(range(plan.frames)) - exact).norm()
            distances.append(float(error / (exact - exact.mean(dim=0)).norm()))
    assert 0 < distances[2] <= distances[1] <= distances[0] <= 0.5
    assert distances[2] <= 0.15


@torch.inference_mode()
@pytest.mark.parametrize("size", SPEECH_ENCODERS)
def test_the_network_is_that_of_transformers(size: str) -> None:
    """Names, shapes and order; of a small one every hidden state too."""
    config = Wav2Vec2Config(**SPEECH_ENCODERS[size], mask_time_prob=0.0)
    with torch.device("meta"):
        theirs: Any = Wav2Vec2Model(config)
    ours = build_wav2vec2(SPEECH_ENCODERS[size])
    shapes = [[(name, each.shape) for name, each in net.state_dict().items()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    if size == "tiny":
        theirs.load_state_dict((ours := network(size)).state_dict(), assign=True)
        parts, heard = split_wav2vec2(ours), signal(16001)[None]
        hidden = parts.project(parts.extract(heard).transpose(1, 2))
        wanted = theirs.eval()(heard, output_hidden_states=True).hidden_states
        for found, each in zip(encoder.run_layers(parts, hidden), wanted[1:], strict=True):
            assert torch.allclose(found, each, atol=1e-6, rtol=0)


def test_of_a_configuration_only_sizes_are_read() -> None:
    for field in ("_attn_implementation_internal", "auto_map", "torchscript", "do_stable_layer_norm"):
        with pytest.raises(CheckpointError, match=field):
            build_wav2vec2({field: True})


@torch.inference_mode()
def test_long_recordings_use_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted with the reader."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parts, plan = split_wav2vec2(network("nano")), plan_segments(20000, SEGMENT)
    exact = compute_features(parts, signal(20000), plan, CPU)(range(plan.padded))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(encoder, "MAX_SECONDS_IN_MEMORY", 1)
    read = compute_features(parts, signal(20000), plan, CPU)
    assert float((read(range(plan.padded)) - exact).abs().max()) <= MAX_ERROR
    assert len(list(tmp_path.iterdir())) == 1
    del read
    gc.collect()
    assert list(tmp_path.iterdir()) == []
