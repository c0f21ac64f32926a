"""Out of memory, frames of NaN, full, read-only and vanished disks: the command names what failed, keeps
finished segments, and resumes."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli import renderer, speech
from hallo3.cli.speech import SpeechFeatures
from hallo3.jobs import video_job
from hallo3.media.mux import GrowingVideo
from hallo3.pipeline import LocalRenderer
from support.resume_runs import Command, Undisturbed, before, before_segment
from support.small_disk import PAGE, Disk, read_only, small_disk

Refused = Callable[..., str]
Resumes = Callable[..., None]


@pytest.fixture
def refused(command: Command) -> Refused:
    """The command fails, its error has all these texts and no traceback."""

    def refused(*texts: str) -> str:
        assert command() in {1, 2}
        unwanted = [text for text in ("Traceback", "Unexpected error") if text in command.err]
        assert unwanted == [text for text in texts if text not in command.err] == [], command.err
        return command.err

    return refused


@pytest.fixture
def resumes(command: Command, undisturbed: Undisturbed) -> Resumes:
    """The command renders these segments and makes the undisturbed video."""

    def resumes(*segments: int) -> None:
        assert command() == 0
        assert command.rendered == list(segments)
        assert command.video.read_bytes() == undisturbed.video

    return resumes


def first_of(undisturbed: Undisturbed, count: int) -> dict[str, bytes]:
    return dict(sorted(undisturbed.segments.items())[:count])


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
)
ONCE = {
    "loading": (renderer, "load_models"),
    "speech": (speech, "encode_array_file"),
    "identity": (renderer, "extract_identity"),
    "prompt": (renderer, "encode_prompts"),
}
JOIN = {"join": (video_job, "join_segments")}
PER_SEGMENT = {name: (LocalRenderer, name) for name in ("encode", "sample", "decode")}
PER_SEGMENT["encode video"] = (video_job, "encode_segment")
OUT_OF_MEMORY = "Out of memory.", "use --vram N", "--low-memory"


def failing(error: BaseException, call: int = 1) -> Callable[[], None]:
    """Fails in a call, counted from 1, and in all after it."""
    calls = count(1)

    def fail() -> None:
        if next(calls) >= call:
            raise error

    return fail


@pytest.mark.parametrize("stages", [[*ONCE], *([each] for each in JOIN | PER_SEGMENT)], ids="-".join)
def test_memory_runs_out(
    command: Command, undisturbed: Undisturbed, refused: Refused, resumes: Resumes, stages: list[str]
) -> None:
    """Three runs with three errors; each gets a segment further if the stage is per segment."""
    saved = 0
    for stage, (number, error) in product(stages, enumerate(ERRORS, 1)):
        with before(*(ONCE | JOIN | PER_SEGMENT)[stage], failing(error, 2 if stage in PER_SEGMENT else 1)):
            text = refused(*OUT_OF_MEMORY)
        assert "--low-memory" in text.split("use --vram N")[1]
        saved = number if stage in PER_SEGMENT else 4 if stage in JOIN else 0
        assert (f"{saved} of 4 segments are saved" in text) == bool(saved)
        assert command.saved_segments() == first_of(undisturbed, saved)
        assert not command.video.exists()
    resumes(*range(saved, 4))
    assert sorted(path.name for path in command.video.parent.glob("v*")) == ["v.mp4"]


def test_other_errors_that_mean_out_of_memory(refused: Refused) -> None:
    blas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    for error in (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), blas):
        with before(renderer, "load_models", failing(error)):
            assert "--low-memory" in refused(*OUT_OF_MEMORY).split("use --vram N")[1]


class BreakingContainer:
    """An open video file that takes a number of packets, then fails."""

    def __init__(self, real: Any, packets: int, error: Exception) -> None:
        self._real, self._fail = real, failing(error, packets + 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mux(self, packet: Any) -> None:
        self._fail()
        self._real.mux(packet)


@pytest.mark.parametrize(
    ("error", "text"), [(OSError(5, "bad"), "so_far.mp4: bad"), (ValueError("no"), "ValueError: no")]
)
def test_a_growing_video_breaks(command: Command, resumes: Resumes, error: Exception, text: str) -> None:
    """The segment was saved before."""
    real = GrowingVideo.__enter__

    def enter(self: GrowingVideo) -> GrowingVideo:
        real(self)
        self._container = BreakingContainer(self._container, 35, error)
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingVideo, "__enter__", enter)
        assert "2 of 4 segments are saved" in command.stderr(code=1)
    assert text in command.err
    resumes(2, 3)


def test_frames_of_nan_are_not_saved(command: Command, undisturbed: Undisturbed, resumes: Resumes) -> None:
    real = LocalRenderer.sample
    for index, value in ((1, float("nan")), (2, float("inf"))):

        def sample(self: LocalRenderer, latents: Any, segment: Any, noise: Any) -> torch.Tensor:
            sampled = real(self, latents, segment, noise)
            return sampled + value if segment.index == index else sampled  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalRenderer, "sample", sample)
            assert f"NaN or infinity in segment {index + 1}" in command.stderr(code=1)
        assert f"{index} of 4 segments are saved" in command.err
        assert command.saved_segments() == first_of(undisturbed, index)
    resumes(2, 3)


SPARE_BYTES = 260 << 10
"""Enough for what is missing after the first segment, but not for the whole video."""


@pytest.fixture
def disk(command: Command, tmp_path: Path) -> Iterator[Disk]:
    """A small disk for the command's jobs."""
    with small_disk(tmp_path / "disk") as mounted:
        command.inputs["--jobs-folder"] = str(mounted.folder / "jobs")
        yield mounted


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_disk_full_of_finished_segments(
    command: Command, disk: Disk, refused: Refused, resumes: Resumes, index: int
) -> None:
    """To resume, a run needs space only for what is missing."""
    full = f"{index:06d}.safetensors: No space left on device, 0 bytes free"
    with before_segment(index, disk.fill):
        refused(full, str(command.jobs), "bytes of free space", f"{index} of 4 segments are saved")
    finished = command.saved_segments()
    assert len(finished) == index
    disk.fill(but=SPARE_BYTES)
    resumes(*range(index, 4))
    assert finished.items() <= command.saved_segments().items()


@pytest.mark.parametrize(
    ("place", "name", "space"),
    [(SpeechFeatures, "compute", 0), *((video_job, "encode_soundtrack", n * PAGE) for n in range(3))],
    ids=["speech features", "sound", "half of the sound", "most of the sound"],
)
def test_a_disk_full_before_the_first_segment(
    disk: Disk, refused: Refused, resumes: Resumes, place: Any, name: str, space: int
) -> None:
    with before(place, name, lambda: disk.fill(but=space)):
        named = f" bytes free on the disk {disk.folder}\n"
        refused(str(disk.folder / "jobs"), "No space left on device", named, "no segment is finished yet")
    assert not list(disk.folder.rglob("*.safetensors"))
    disk.enlarge()
    resumes(0, 1, 2, 3)


def test_no_room_as_a_video_grows(command: Command, disk: Disk, refused: Refused, resumes: Resumes) -> None:
    """A segment is saved before it is appended."""
    pieces = count()
    command.video.write_bytes(b"an old video")
    with before(GrowingVideo, "append", lambda: next(pieces) == 2 and disk.fill()):
        refused("so_far.mp4: No space left on device, 0 bytes free", "3 of 4 segments")
    assert command.video.read_bytes() == b"an old video"
    assert len(command.saved_segments()) == 3
    disk.enlarge()
    resumes(3)
    assert not list(disk.folder.rglob("so_far.*"))


def test_no_room_for_the_finished_video(command: Command, disk: Disk, undisturbed: Undisturbed) -> None:
    """The video goes to the small disk, jobs do not."""
    video, rendered = disk.folder / "v.mp4", list[int]()
    command.inputs |= {"-o": str(video), "--jobs-folder": str(command.video.with_name("jobs"))}
    video.write_bytes(b"an old video")
    wanted = (str(disk.folder), "No space left on device", "bytes free", "4 of 4 segments are saved")
    for space in range(0, len(undisturbed.video) + 2 * PAGE, PAGE):
        with before(video_job, "join_segments", lambda space=space: disk.fill(but=space)):
            code = command()
        disk.enlarge()
        rendered += command.rendered
        if not code:
            break
        assert (code, [text for text in wanted if text not in command.err]) == (1, [])
        assert "Traceback" not in command.err
        assert video.read_bytes() == b"an old video"
        assert list(disk.folder.iterdir()) == [video]
        assert len(command.saved_segments()) == 4
    assert space >= 2 * PAGE, "at least two failed"
    assert rendered == [0, 1, 2, 3]
    assert video.read_bytes() == undisturbed.video
    assert list(disk.folder.iterdir()) == [video]


def test_a_read_only_folder(command: Command, disk: Disk, refused: Refused, resumes: Resumes) -> None:
    jobs = command.jobs
    with read_only(disk.folder):
        refused(str(jobs), "Read-only file system", "choose another")
    with ExitStack() as stack:
        with before_segment(2, lambda: stack.enter_context(read_only(jobs))):
            refused(str(jobs), "000002.safetensors", "Read-only file system", "2 of 4 segments")
        refused(str(jobs), "Read-only file system")
    assert len(command.saved_segments()) == 2
    resumes(2, 3)


@pytest.mark.parametrize("deleted", ["", "segments", "speech"])
def test_a_deleted_folder(command: Command, refused: Refused, resumes: Resumes, deleted: str) -> None:
    jobs = command.jobs
    with before_segment(2, lambda: shutil.rmtree(next(jobs.glob(f"*/{deleted}")) if deleted else jobs)):
        err = refused(str(jobs))
    assert "missing" in err or "No such file or directory" in err
    saved = 2 if deleted == "speech" else 0
    assert len(command.saved_segments()) == saved
    assert ("segments are saved" in err) == bool(saved)
    resumes(*range(saved, 4))


def test_a_deleted_segment(command: Command, refused: Refused, resumes: Resumes) -> None:
    with before_segment(2, lambda: next(command.jobs.rglob("000001.safetensors")).unlink()):
        refused("000001.safetensors", "3 of 4 segments are saved", "only this segment")
    resumes(1)


def test_a_file_in_place_of_the_folder(command: Command, refused: Refused, resumes: Resumes) -> None:
    command.jobs.write_text("a file")
    refused(str(command.jobs), "Not a directory")
    assert command.jobs.read_text() == "a file"
    command.jobs.unlink()
    resumes(0, 1, 2, 3)
