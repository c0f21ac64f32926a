"""Hearing in windows: what is kept once, what is exact, and how near the rest is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import BUILT_IN, SPEECH_ENCODERS, SegmentConfig
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.noise import make_generator
from hallo3.quantization.precision import PRECISIONS
from hallo3.segments import SegmentPlan, plan_segments
from hallo3.speech.array_file import write_array_file
from hallo3.speech.chunked import Pieces, encode_streamed, unwatched
from hallo3.speech.features import EXACT_MINUTES, WINDOW_MINUTES, Windows, tell, windows_for
from hallo3.speech.wav2vec2 import build_wav2vec2, encode_waveform, split_wav2vec2
from support.messages import expect_message, expect_no_message

CPU = torch.device("cpu")
SEGMENT = SegmentConfig(frames=17, height=32, width=32)
MINUTE = 60 * 25


@pytest.mark.parametrize("total", [1, 60, 61, 99, 100, 130, 1000])
@pytest.mark.parametrize(("frames", "overlap"), [(60, 0), (60, 1), (60, 20), (60, 59), (1, 0)])
def test_every_frame_is_kept_once_with_its_neighbours(total: int, frames: int, overlap: int) -> None:
    found = Windows(frames, overlap).over(total)
    kept = [frame for window in found for frame in range(window.start, window.stop)]
    assert kept == list(range(total))
    for window in found:
        assert window.last - window.first == min(frames, total)
        assert 0 <= window.first <= window.start < window.stop <= window.last <= total
        assert window.first == 0 or window.start - window.first >= overlap // 2
        assert window.last == total or window.last - window.stop >= overlap // 2
    for before, after in itertools.pairwise(found):
        assert before.last - after.first >= overlap


@pytest.mark.parametrize(("frames", "overlap"), [(60, 60), (60, 61), (60, -1), (0, 0)])
def test_windows_that_do_not_advance_are_refused(frames: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Windows(frames, overlap).over(100)


@pytest.mark.parametrize(
    ("hearing", "minutes", "exact"),
    [
        ("auto", 1, True),
        ("auto", EXACT_MINUTES, True),
        ("auto", EXACT_MINUTES + 1, False),
        ("exact", 10 * EXACT_MINUTES, True),
        ("windows", 1, True),
        ("windows", WINDOW_MINUTES - 1, True),
        ("windows", WINDOW_MINUTES + 1, False),
    ],
)
def test_windows_are_for_what_is_asked_and_does_not_fit_in_one(
    hearing: str, minutes: int, exact: bool
) -> None:
    plan = SegmentPlan(minutes * MINUTE, SegmentConfig())
    windows = windows_for(hearing, plan)
    assert (windows is None) == exact
    if windows is None:
        with expect_no_message():
            tell(windows, plan)
    else:
        with expect_message(rf"{minutes} minutes.*approximation.*0\.3 %"):
            tell(windows, plan)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="often"):
        windows_for("often", SegmentPlan(5, SEGMENT))


def network(size: str) -> nn.Module:
    built = build_wav2vec2(SPEECH_ENCODERS[size])
    built.load_state_dict(make_random_state(built, f"7|{size}"), assign=True)
    return built.eval()


def heard(built: nn.Module, signal: Tensor, folder: Path, windows: Windows | None) -> Tensor:
    plan = plan_segments(len(signal), SEGMENT)
    samples = write_array_file(folder / "signal", [signal[:, None]], 1)
    told: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        told.append((done, total))

    small = Pieces(conv_frames=53, frames=13, scores=500)
    read = encode_streamed(
        split_wav2vec2(built),
        samples,
        plan,
        CPU,
        folder / "heard",
        watch,
        small,
        windows,
    )
    done = [count for count, _ in told]
    assert done == sorted(done)
    assert {total for _, total in told} == {done[-1]}
    return read(range(plan.padded))


@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_one_window_is_exact(tmp_path: Path, size: str) -> None:
    """Bit for bit, if all frames fit in it."""
    built = network(size)
    signal = 0.1 * torch.from_numpy(make_generator("heard").standard_normal(40000, dtype="float32"))
    (tmp_path / "a").mkdir()
    exact = heard(built, signal, tmp_path / "a", None)
    for frames, overlap in ((68, 10), (1000, 900)):
        assert len(exact) == 68
        folder = tmp_path / str(frames)
        folder.mkdir()
        assert torch.equal(heard(built, signal, folder, Windows(frames, overlap)), exact)


@torch.inference_mode()
def test_windows_come_nearer_as_they_grow(tmp_path: Path, samples: Path) -> None:
    """The built-in model's ears, in shares of how much what they hear varies."""
    spoken = read_recording(samples / "speech.wav").waveform[0]
    signal = torch.cat([spoken * factor for factor in (1, 0.5, 0.8, 0.3)])
    with load_models(FOLDER, CPU, PRECISIONS["fp32"]).speech as built:
        plan = plan_segments(len(signal), BUILT_IN.segment)
        exact = encode_waveform(built, signal, plan, CPU)[: plan.frames]  # pyright: ignore[reportArgumentType]
        samples_on_disk = write_array_file(tmp_path / "signal", [signal[:, None]], 1)
        distances: list[float] = []
        for seconds in (2, 6, 12):
            windows = Windows(seconds * 25, seconds * 5)
            folder = tmp_path / str(seconds)
            read = encode_streamed(
                split_wav2vec2(built), samples_on_disk, plan, CPU, folder, unwatched, None, windows
            )
            found = read(range(plan.frames))
            assert bool(found.isfinite().all())
            variation = (exact - exact.mean(dim=0)).square().mean()
            distances.append(float(((found - exact).square().mean() / variation).sqrt()))
    assert distances == sorted(distances, reverse=True)
    assert 0 < distances[-1] <= 0.15
    assert distances[0] <= 0.5
