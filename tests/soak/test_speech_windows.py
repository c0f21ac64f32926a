"""How far hearing in windows is from the exact hearing, and what each costs.

``pytest -m soak -s tests/soak/test_speech_windows.py``; two cores need half an hour.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import REPOSITORY
from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import HALLO3, SPEECH_ENCODERS
from hallo3.loading import load_models
from hallo3.media.audio import read_recording, to_mono
from hallo3.noise import make_generator
from hallo3.quantization.precision import PRECISIONS
from hallo3.segments import plan_segments
from hallo3.speech.array_file import write_array_file
from hallo3.speech.chunked import encode_streamed
from hallo3.speech.features import WINDOWS, Windows, windows_for
from hallo3.speech.wav2vec2 import Wav2Vec2Parts, build_wav2vec2, split_wav2vec2
from soak.machine import keep
from support.audio_samples import RATE

pytestmark = pytest.mark.soak
CPU, SEED, FPS = torch.device("cpu"), 7, 25
NAME = "speech_windows.json"
MINUTES = 4
HOURS_SECONDS = 5400
NEAR, USED_NEAR = 0.1, 0.02
"""The distance that the built-in model's ears may have, with windows of a minute, and with those in use."""
SECONDS = [(60, 0), (60, 15), (60, 30), (60, 45), (120, 30), (120, 60), (120, 90)]
"""Windows and what they have in common with the next."""
TIMED = {"built-in": (4, 8, 16), "hallo3": (2, 4, 8)}
"""Minutes whose exact hearing is timed."""


def talk(seconds: int) -> Tensor:
    """[samples]: the repository's spoken cases in a drawn order, at drawn levels, with drawn pauses."""
    paths = [*sorted((REPOSITORY / "tests/data/behaviour").glob("*.flac")), REPOSITORY / "samples/speech.wav"]
    spoken = [to_mono(read_recording(path), RATE) for path in paths]
    drawn, parts, length = make_generator(f"{SEED}|talk"), list[Tensor](), 0
    while length < seconds * RATE:
        one = spoken[drawn.integers(len(spoken))] * float(10 ** (drawn.uniform(-10, 0) / 20))
        parts += [one, torch.zeros(int(drawn.uniform(0.1, 1.0) * RATE))]
        length += len(parts[-2]) + len(parts[-1])
    return torch.cat(parts)[: seconds * RATE] + 1e-4 * torch.from_numpy(
        drawn.standard_normal(seconds * RATE, dtype="float32")
    )


def network(size: str) -> nn.Module:
    if size == "built-in":
        models = load_models(FOLDER, CPU, PRECISIONS["fp32"])
        with models.speech as found:
            return found
    built = build_wav2vec2(SPEECH_ENCODERS[size])
    built.load_state_dict(make_random_state(built, f"{SEED}|{size}"), assign=True)
    return built.eval()


def heard(
    anatomy: Wav2Vec2Parts, signal: Tensor, folder: Path, windows: Windows | None = None
) -> tuple[Tensor, float]:
    """Features [frames, layers, channels], and seconds."""
    folder.mkdir()
    plan = plan_segments(len(signal), HALLO3.segment)
    pieces = (signal[at : at + RATE, None] for at in range(0, len(signal), RATE))
    samples = write_array_file(folder / "signal", pieces, 1)
    started = time.perf_counter()
    read = encode_streamed(anatomy, samples, plan, CPU, folder / "heard", windows=windows)
    seconds = time.perf_counter() - started
    return read(range(plan.frames)), seconds


def apart(anatomy: Wav2Vec2Parts, signal: Tensor, folder: Path, windows: Windows) -> Tensor:
    """Features of windows that are each heard as a recording of its own, their middles joined."""
    folder.mkdir()
    frames, per_frame, parts = -(-len(signal) * FPS // RATE), RATE // FPS, list[Tensor]()
    for number, window in enumerate(windows.over(frames)):
        own = signal[window.first * per_frame : window.last * per_frame]
        features = heard(anatomy, own, folder / str(number))[0]
        parts.append(features[window.start - window.first : window.stop - window.first])
    return torch.cat(parts)


def write(section: str, figures: dict[str, Any]) -> None:
    """Keep figures beside those of the other tests here."""
    path = REPOSITORY / "docs/measurements" / NAME
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known.pop("machine", None)
    keep(NAME, {**known, section: figures})


def distance(found: Tensor, exact: Tensor) -> dict[str, Any]:
    """Of features: RMS in shares of how much a layer's features vary over the recording, of all frames and of
    the worst, and in shares of the features' own RMS."""
    variation = (exact - exact.mean(dim=0)).square().mean(dim=(0, 2)).sqrt()
    squares = (found - exact).square()
    frames = squares.mean(dim=2).sqrt() / variation
    return {
        "of variation": float(frames.square().mean().sqrt()),
        "of variation, in each layer": [round(float(each), 5) for each in frames.square().mean(dim=0).sqrt()],
        "of variation, worst frame": float(frames.square().mean(dim=1).sqrt().max()),
        "of magnitude": float((squares.mean() / exact.square().mean()).sqrt()),
    }


@pytest.mark.parametrize("size", ["built-in", "hallo3"])
def test_windows_are_near(tmp_path: Path, size: str) -> None:
    anatomy = split_wav2vec2(network(size))
    signal = talk(MINUTES * 60)
    exact, took = heard(anatomy, signal, tmp_path / "exact")
    found: dict[str, Any] = {}
    for window, overlap in SECONDS:
        windows = Windows(window * FPS, overlap * FPS)
        name = f"{window} s, {overlap} s in common"
        features, seconds = heard(anatomy, signal, tmp_path / name, windows)
        found[name] = {**distance(features, exact), "seconds": seconds}
        if size == "built-in":
            assert found[name]["of variation"] <= NEAR
    window, overlap = SECONDS[-1]
    own = distance(apart(anatomy, signal, tmp_path / "apart", Windows(window * FPS, overlap * FPS)), exact)
    timed = {
        f"{minutes} min": heard(anatomy, talk(minutes * 60), tmp_path / str(minutes))[1]
        for minutes in TIMED[size]
    }
    found[f"{window} s, {overlap} s in common, each a recording of its own"] = own
    figures = {"minutes": MINUTES, "exact, seconds": took, "windows": found, "exact hearing, seconds": timed}
    write(size, figures)


def test_the_windows_that_are_used(tmp_path: Path) -> None:
    """An hour and a half with the built-in model's ears, in windows that would be used for three and more."""
    anatomy, signal = split_wav2vec2(network("built-in")), talk(HOURS_SECONDS)
    plan = plan_segments(len(signal), HALLO3.segment)
    windows = windows_for(WINDOWS, plan)
    assert windows is not None
    exact, took = heard(anatomy, signal, tmp_path / "exact")
    features, seconds = heard(anatomy, signal, tmp_path / "windows", windows)
    found = distance(features, exact)
    figures = {"minutes": HOURS_SECONDS // 60, "exact, seconds": took, "seconds": seconds, **found}
    write("used", figures)
    assert found["of variation"] <= USED_NEAR
