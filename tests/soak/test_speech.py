"""Memory of the speech encoder; how far features in windows are from the exact ones, and what each costs.

``pytest -m soak -s tests/soak/test_speech.py``; two cores need an hour.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import REPOSITORY
from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import HALLO3, SPEECH_ENCODERS
from hallo3.loading import load_models
from hallo3.media.audio import read_recording, to_mono
from hallo3.noise import make_generator
from hallo3.quantization import PRECISIONS
from hallo3.segments import plan_segments
from hallo3.speech.array_file import write_array_file
from hallo3.speech.encoder import encode_array_file
from hallo3.speech.features import WINDOWS, Windows, choose_windows
from hallo3.speech.wav2vec2 import Wav2Vec2Parts, build_wav2vec2, split_wav2vec2
from soak.machine import keep
from support.audio_samples import RATE
from support.own_process import ON_LINUX

pytestmark = pytest.mark.soak
CPU, SEED, FPS = torch.device("cpu"), 7, 25
NAME = "speech_windows.json"
MINUTES, LONG_MINUTES = 4, 90
MAX_DISTANCE, MAX_DISTANCE_SHIPPED = 0.1, 0.02
"""Of the built-in encoder, in windows of a minute and in the shipped ones."""
WINDOW_SECONDS = [(60, 0), (60, 15), (60, 30), (60, 45), (120, 30), (120, 60), (120, 90)]
"""(window, overlap)"""
TIMED_MINUTES = {"built-in": (4, 8, 16), "hallo3": (2, 4, 8)}


def make_speech(seconds: int) -> Tensor:
    """[samples]: the repository's spoken cases in a random order, at random levels, with random pauses."""
    paths = [*sorted((REPOSITORY / "tests/data/behaviour").glob("*.ogg")), REPOSITORY / "samples/speech.wav"]
    spoken = [to_mono(read_recording(path), RATE) for path in paths]
    random, parts, length = make_generator(f"{SEED}|talk"), list[Tensor](), 0
    while length < seconds * RATE:
        one = spoken[random.integers(len(spoken))] * float(10 ** (random.uniform(-10, 0) / 20))
        parts += [one, torch.zeros(int(random.uniform(0.1, 1.0) * RATE))]
        length += len(parts[-2]) + len(parts[-1])
    hiss = torch.from_numpy(random.standard_normal(seconds * RATE, dtype="float32"))
    return torch.cat(parts)[: seconds * RATE] + 1e-4 * hiss


def load_parts(size: str) -> Wav2Vec2Parts:
    if size == "built-in":
        with load_models(FOLDER, CPU, PRECISIONS["fp32"]).speech as network:
            return split_wav2vec2(network)
    network = build_wav2vec2(SPEECH_ENCODERS[size])
    network.load_state_dict(make_random_state(network, f"{SEED}|{size}"), assign=True)
    return split_wav2vec2(network.eval())


def encode(
    parts: Wav2Vec2Parts, signal: Tensor, folder: Path, windows: Windows | None = None
) -> tuple[Tensor, float]:
    """Features [frames, layers, channels], and seconds."""
    folder.mkdir()
    plan = plan_segments(len(signal), HALLO3.segment)
    samples = write_array_file(folder / "signal", torch.split(signal[:, None], RATE), 1)
    started = time.perf_counter()
    read = encode_array_file(parts, samples, plan, CPU, folder / "features", windows=windows)
    return read(range(plan.frames)), time.perf_counter() - started


def encode_apart(parts: Wav2Vec2Parts, signal: Tensor, folder: Path, windows: Windows) -> Tensor:
    """Features of windows that are each a recording of its own, their middles joined."""
    folder.mkdir()
    frames, per_frame, middles = -(-len(signal) * FPS // RATE), RATE // FPS, list[Tensor]()
    for number, window in enumerate(windows.over(frames)):
        own = signal[window.first * per_frame : window.last * per_frame]
        features, _ = encode(parts, own, folder / str(number))
        middles.append(features[window.start - window.first : window.stop - window.first])
    return torch.cat(middles)


def distance(features: Tensor, exact: Tensor) -> dict[str, Any]:
    """RMS relative to each layer's variation over the recording, and to the features' own RMS."""
    variation = (exact - exact.mean(dim=0)).square().mean(dim=(0, 2)).sqrt()
    squares = (features - exact).square()
    frames = squares.mean(dim=2).sqrt() / variation
    return {
        "of variation": float(frames.square().mean().sqrt()),
        "of variation, in each layer": [round(float(each), 5) for each in frames.square().mean(dim=0).sqrt()],
        "of variation, worst frame": float(frames.square().mean(dim=1).sqrt().max()),
        "of magnitude": float((squares.mean() / exact.square().mean()).sqrt()),
    }


@pytest.mark.parametrize("size", ["built-in", "hallo3"])
def test_windows_are_near(tmp_path: Path, size: str) -> None:
    parts, signal = load_parts(size), make_speech(MINUTES * 60)
    exact, exact_seconds = encode(parts, signal, tmp_path / "exact")
    found, windows = dict[str, Any](), Windows(1, 0)
    for window, overlap in WINDOW_SECONDS:
        windows, name = Windows(window * FPS, overlap * FPS), f"{window} s, {overlap} s in common"
        features, seconds = encode(parts, signal, tmp_path / name, windows)
        found[name] = {**distance(features, exact), "seconds": seconds}
        if size == "built-in":
            assert found[name]["of variation"] <= MAX_DISTANCE
    apart = distance(encode_apart(parts, signal, tmp_path / "apart", windows), exact)
    timed = {
        f"{minutes} min": encode(parts, make_speech(minutes * 60), tmp_path / str(minutes))[1]
        for minutes in TIMED_MINUTES[size]
    }
    window, overlap = WINDOW_SECONDS[-1]
    found[f"{window} s, {overlap} s in common, each a recording of its own"] = apart
    figures = {"minutes": MINUTES, "exact, seconds": exact_seconds, "windows": found}
    keep(NAME, {**figures, "exact hearing, seconds": timed}, size)


def test_the_shipped_windows_are_near(tmp_path: Path) -> None:
    """An hour and a half by the built-in encoder."""
    parts, signal = load_parts("built-in"), make_speech(LONG_MINUTES * 60)
    windows = choose_windows(WINDOWS, plan_segments(len(signal), HALLO3.segment))
    assert windows is not None
    exact, exact_seconds = encode(parts, signal, tmp_path / "exact")
    features, seconds = encode(parts, signal, tmp_path / "windows", windows)
    found = distance(features, exact)
    figures = {"minutes": LONG_MINUTES, "exact, seconds": exact_seconds, "seconds": seconds, **found}
    keep(NAME, figures, "used")
    assert found["of variation"] <= MAX_DISTANCE_SHIPPED


PEAK = """
import json, sys, time
from pathlib import Path
import torch
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import SPEECH_ENCODERS, SegmentConfig
from hallo3.segments import plan_segments
from hallo3.speech.array_file import write_array_file
from hallo3.speech.encoder import encode_array_file
from hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2
size, layers, seconds, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
network = build_wav2vec2(SPEECH_ENCODERS[size] | {"num_hidden_layers": layers})
network.load_state_dict(make_random_state(network, size), assign=True)
parts = split_wav2vec2(network.eval())
samples = write_array_file(folder / "signal", (torch.randn(16000, 1) for _ in range(seconds)), 1)
Path("/proc/self/clear_refs").write_text("5")
started = time.perf_counter()
plan = plan_segments(samples.rows, SegmentConfig())
encode_array_file(parts, samples, plan, torch.device("cpu"), folder / "features")(range(49))
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"peak_mb": round(peak), "seconds": round(time.perf_counter() - started)}))
"""


@ON_LINUX
def test_memory_is_bounded(tmp_path: Path) -> None:
    """wav2vec2-base for ten minutes; one of its twelve layers for an hour, since layers run one by one."""
    figures: dict[str, Any] = {}
    for layers, seconds, limit_mb in ((12, 600, 1000), (1, 3600, 2000)):
        folder = tmp_path / str(seconds)
        words = [sys.executable, "-c", PEAK, "hallo3", str(layers), str(seconds), str(folder)]
        run = subprocess.run(words, check=True, cwd=REPOSITORY, capture_output=True)
        figures[f"{seconds // 60} min, {layers} layers"] = json.loads(run.stdout) | {"limit_mb": limit_mb}
    keep("speech_memory.json", figures)
    assert all(each["peak_mb"] <= each["limit_mb"] for each in figures.values())
