"""Out of memory, a broken encoder, frames of NaN: finished segments are saved, and the next run resumes."""

from __future__ import annotations

import errno
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli import renderer, speech
from hallo3.jobs import video_job as jobs_render
from hallo3.media.mux import GrowingVideo
from hallo3.pipeline import LocalRenderer
from support.kill_process import read_segments, strip_headers
from support.resume_runs import inputs_in, run

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
)
ONCE = {
    "loading": (renderer, "load_models"),
    "speech": (speech, "encode_array_file"),
    "identity": (renderer, "extract_identity"),
    "prompt": (renderer, "encode_prompt"),
    "join": (jobs_render, "join_segments"),
}
PER_SEGMENT = {
    "encode": (LocalRenderer, "encode"),
    "sample": (LocalRenderer, "sample"),
    "decode": (LocalRenderer, "decode"),
    "encode video": (jobs_render, "encode_segment"),
}
Undisturbed = tuple[bytes, dict[str, bytes]]
"""The video and the segments of an undisturbed run."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    inputs = inputs_in(folder, nano_folder)
    assert run(inputs) == 0
    return Path(inputs["-o"]).read_bytes(), strip_headers(read_segments(folder / "hallo3_jobs"))


def fail_from(place: Any, name: str, call: int, error: BaseException) -> pytest.MonkeyPatch:
    """Let a call, counted from 1, and all after it fail, until the result is undone."""
    patch, real, calls = pytest.MonkeyPatch(), getattr(place, name), [0]

    def fail(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] >= call:
            raise error
        return real(*arguments, **named)

    patch.setattr(place, name, fail)
    return patch


ALONE = ("join", *PER_SEGMENT)
STAGES = [[stage for stage in ONCE if stage not in ALONE], *([stage] for stage in ALONE)]


@pytest.mark.parametrize("stages", STAGES, ids="-".join)
def test_memory_runs_out(
    inputs: dict[str, str],
    rendered: list[int],
    undisturbed: Undisturbed,
    capsys: pytest.CaptureFixture[str],
    stages: list[str],
) -> None:
    """Three runs with three errors; each gets a segment further if the stage is per segment."""
    video, segments = undisturbed
    jobs, saved = Path(inputs["-o"]).parent / "hallo3_jobs", 0
    for stage, (count, error) in product(stages, enumerate(ERRORS, 1)):
        patch = fail_from(*(ONCE | PER_SEGMENT)[stage], 1 if stage in ONCE else 2, error)
        capsys.readouterr()
        assert run(inputs) == 1
        patch.undo()
        saved = count if stage in PER_SEGMENT else 4 if stage == "join" else 0
        _expect_out_of_memory(text := capsys.readouterr().err)
        assert (f"{saved} of 4 segments are saved" in text) == bool(saved)
        assert strip_headers(read_segments(jobs)) == {
            name: segments[name] for name in sorted(segments)[:saved]
        }
        assert not Path(inputs["-o"]).exists()
    rendered.clear()
    assert run(inputs) == 0
    assert rendered == list(range(saved, 4))
    assert Path(inputs["-o"]).read_bytes() == video
    assert sorted(path.name for path in jobs.parent.glob("v*")) == ["v.mp4"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_that_mean_out_of_memory(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    patch = fail_from(renderer, "load_models", 1, error)
    assert run(inputs) == 1
    patch.undo()
    _expect_out_of_memory(capsys.readouterr().err)


def _expect_out_of_memory(text: str) -> None:
    assert "Out of memory." in text
    assert "--low-memory" in text.split("use --vram N")[1]
    assert "Traceback" not in text


class BreakingContainer:
    """An open video file that takes a number of packets, then fails."""

    def __init__(self, real: Any, packets: int, error: Exception) -> None:
        self._real, self._left, self._error = real, packets, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mux(self, packet: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error
        self._real.mux(packet)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("broken")])
def test_the_growing_video_cannot_be_appended_to(
    inputs: dict[str, str],
    rendered: list[int],
    undisturbed: Undisturbed,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    """The segment was saved before."""
    real = GrowingVideo.__enter__

    def enter(self: GrowingVideo) -> GrowingVideo:
        real(self)
        self._container = BreakingContainer(self._container, 35, error)
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingVideo, "__enter__", enter)
        assert run(inputs) == 1
    text = capsys.readouterr().err
    assert "2 of 4 segments are saved" in text
    assert ("so_far.mp4: Input/output error" if isinstance(error, OSError) else "ValueError: broken") in text
    rendered.clear()
    assert run(inputs) == 0
    assert rendered == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == undisturbed[0]


def test_frames_of_nan_or_infinity_are_not_saved(
    inputs: dict[str, str],
    rendered: list[int],
    undisturbed: Undisturbed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video, segments = undisturbed
    real = LocalRenderer.sample
    for index, value in ((1, float("nan")), (2, float("inf"))):

        def sample(self: LocalRenderer, latents: Any, segment: Any, noise: Any) -> torch.Tensor:
            sampled = real(self, latents, segment, noise)
            return sampled + value if segment.index == index else sampled  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalRenderer, "sample", sample)
            assert run(inputs) == 1
        text = capsys.readouterr().err
        assert f"NaN or infinity in segment {index + 1}" in text
        assert f"{index} of 4 segments are saved" in text
        saved = strip_headers(read_segments(Path(inputs["-o"]).parent / "hallo3_jobs"))
        assert saved == {name: segments[name] for name in sorted(segments)[:index]}
    rendered.clear()
    assert run(inputs) == 0
    assert rendered == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == video
