"""Memory that runs out, an encoder that fails, frames that are no numbers: nothing finished is lost."""

from __future__ import annotations

import errno
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli import renderer
from hallo3.cli import speech as listen
from hallo3.jobs import render as video_job
from hallo3.media.mux import GrowingVideo
from hallo3.pipeline import LocalRenderer
from support.kill_process import committed, notes
from support.resume_runs import inputs_in, record_rendered, run

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
)
ONCE = {
    "loading": (renderer, "load_models"),
    "listening": (listen, "encode_streamed"),
    "identity": (renderer, "extract_identity"),
    "prompt": (renderer, "encode_prompt"),
    "join": (video_job, "join_segments"),
}
EACH = {
    "encode": (LocalRenderer, "encode"),
    "sample": (LocalRenderer, "sample"),
    "decode": (LocalRenderer, "decode"),
    "encode_piece": (video_job, "encode_segment"),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """The video and the segments of an undisturbed run."""
    folder = tmp_path_factory.mktemp("wanted")
    inputs = inputs_in(folder, nano_folder)
    assert run(inputs) == 0
    return Path(inputs["-o"]).read_bytes(), notes(committed(folder / "hallo3_jobs"))


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    return inputs_in(tmp_path, nano_folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_rendered(monkeypatch)


def failing(place: Any, name: str, call: int, error: BaseException) -> pytest.MonkeyPatch:
    """The call of that number, counted from 1, and all after it fail."""
    patch, real, calls = pytest.MonkeyPatch(), getattr(place, name), [0]

    def called(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] >= call:
            raise error
        return real(*arguments, **named)

    patch.setattr(place, name, called)
    return patch


ALONE = ("join", *EACH)
STAGES = [[stage for stage in ONCE if stage not in ALONE], *([stage] for stage in ALONE)]


@pytest.mark.parametrize("stages", STAGES, ids="-".join)
def test_memory_runs_out(
    inputs: dict[str, str],
    drawn: list[int],
    wanted: tuple[bytes, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    stages: list[str],
) -> None:
    """Three times, each time with another error, one segment further on where there are any."""
    video, segments = wanted
    jobs, kept = Path(inputs["-o"]).parent / "hallo3_jobs", 0
    for stage, (count, error) in product(stages, enumerate(ERRORS, 1)):
        patch = failing(*(ONCE | EACH)[stage], 1 if stage in ONCE else 2, error)
        capsys.readouterr()
        assert run(inputs) == 1
        patch.undo()
        kept = count if stage in EACH else 4 if stage == "join" else 0
        said = capsys.readouterr().err
        assert "Out of memory." in said
        assert "--low-memory" in said.split("use --vram N")[1]
        assert "Traceback" not in said
        assert (f"{kept} of 4 segments are saved" in said) == bool(kept)
        found = notes(committed(jobs))
        assert found == {each: segments[each] for each in sorted(segments)[:kept]}
        assert not Path(inputs["-o"]).exists()
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == list(range(kept, 4))
    assert Path(inputs["-o"]).read_bytes() == video
    assert sorted(path.name for path in jobs.parent.glob("v*")) == ["v.mp4"]


OTHERS = [
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_words_for_it(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    patch = failing(renderer, "load_models", 1, error)
    assert run(inputs) == 1
    patch.undo()
    said = capsys.readouterr().err
    assert "Out of memory." in said
    assert "--low-memory" in said.split("use --vram N")[1]


class Breaking:
    """A file of video to which so many packets can be added, and no more."""

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
    drawn: list[int],
    wanted: tuple[bytes, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    """The segment was finished before."""
    real = GrowingVideo.__enter__

    def begin(self: GrowingVideo) -> GrowingVideo:
        real(self)
        self._container = Breaking(self._container, 35, error)
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingVideo, "__enter__", begin)
        assert run(inputs) == 1
    said = capsys.readouterr().err
    assert "2 of 4 segments are saved" in said
    assert "Input/output error" in said or "ValueError: broken" in said
    assert ("so_far.mp4: Input/output error" in said) == isinstance(error, OSError)
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == wanted[0]


def test_frames_that_are_no_numbers_are_not_kept(
    inputs: dict[str, str],
    drawn: list[int],
    wanted: tuple[bytes, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    video, segments = wanted
    real = LocalRenderer.sample
    for index, value in ((1, float("nan")), (2, float("inf"))):

        def sample(self: LocalRenderer, latents: torch.Tensor, segment: Any, noise: Any) -> torch.Tensor:
            made = real(self, latents, segment, noise)
            return made + value if segment.index == index else made  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalRenderer, "sample", sample)
            assert run(inputs) == 1
        said = capsys.readouterr().err
        assert f"NaN or infinity in segment {index + 1}" in said
        assert f"{index} of 4 segments are saved" in said
        found = notes(committed(Path(inputs["-o"]).parent / "hallo3_jobs"))
        assert found == {each: segments[each] for each in sorted(segments)[:index]}
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == video
