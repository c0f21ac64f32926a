"""Full, read-only and vanished disks: the command names the file, keeps finished segments, and resumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hallo3.cli.speech import SpeechFeatures
from hallo3.jobs import video_job
from hallo3.media.mux import GrowingVideo
from support.kill_process import read_segments, strip_headers
from support.resume_runs import before, before_segment, inputs_in, run
from support.small_disk import PAGE, Disk, read_only, small_disk

SPARE_BYTES = 260 << 10
"""Enough for what is missing after the first segment, but not for the whole video."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Jobs are on the small disk, if a test has one."""
    return inputs_in(tmp_path, nano_folder) | {"--jobs-folder": str(tmp_path / "disk" / "jobs")}


@pytest.fixture
def refused(inputs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Any:
    """A function: the command fails, its error has all these texts and no traceback."""

    def refused(*texts: str) -> str:
        capsys.readouterr()
        assert run(inputs) in {1, 2}
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "Unexpected error" not in err
        assert [text for text in texts if text not in err] == [], err
        return err

    return refused


@pytest.fixture
def resumes(inputs: dict[str, str], undisturbed: bytes, rendered: list[int]) -> Any:
    """A function: the command renders these segments and makes the undisturbed video."""

    def resumes(*segments: int) -> None:
        rendered.clear()
        assert run(inputs) == 0
        assert rendered == list(segments)
        assert Path(inputs["-o"]).read_bytes() == undisturbed

    return resumes


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_disk_full_of_finished_segments(disk: Disk, refused: Any, resumes: Any, index: int) -> None:
    """To resume, a run needs space only for what is missing."""
    jobs = disk.folder / "jobs"
    patch = before_segment(index, disk.fill)
    refused(
        f"{index:06d}.safetensors: No space left on device, 0 bytes free",
        str(jobs),
        "bytes of free space",
        f"{index} of 4 segments are saved",
    )
    patch.undo()
    finished = strip_headers(read_segments(jobs))
    assert len(finished) == index
    disk.fill(but=SPARE_BYTES)
    resumes(*range(index, 4))
    assert finished.items() <= strip_headers(read_segments(jobs)).items()


@pytest.mark.parametrize(
    ("place", "name", "space"),
    [(SpeechFeatures, "compute", 0), *((video_job, "encode_soundtrack", n * PAGE) for n in range(3))],
    ids=["speech features", "sound", "half of the sound", "most of the sound"],
)
def test_a_disk_full_before_the_first_segment(
    disk: Disk, refused: Any, resumes: Any, place: Any, name: str, space: int
) -> None:
    patch = before(place, name, lambda: disk.fill(but=space))
    refused(str(disk.folder / "jobs"), "No space left on device", "free some space")
    patch.undo()
    assert not list(disk.folder.rglob("*.safetensors"))
    disk.enlarge()
    resumes(0, 1, 2, 3)


def test_a_full_disk_under_the_growing_video(
    inputs: dict[str, str], disk: Disk, refused: Any, resumes: Any
) -> None:
    """A segment is saved before it is appended."""
    video, pieces = Path(inputs["-o"]), iter(range(4))
    video.write_bytes(b"an old video")
    patch = before(GrowingVideo, "append", lambda: next(pieces) == 2 and disk.fill())
    refused("so_far.mp4: No space left on device, 0 bytes free", "3 of 4 segments")
    patch.undo()
    assert video.read_bytes() == b"an old video"
    assert len(read_segments(disk.folder / "jobs")) == 3
    disk.enlarge()
    resumes(3)
    assert not list(disk.folder.rglob("so_far.*"))


def test_a_full_disk_under_the_finished_video(
    inputs: dict[str, str],
    disk: Disk,
    undisturbed: bytes,
    rendered: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The video goes to the small disk, jobs do not."""
    jobs, video = Path(inputs["--portrait"]).parent / "jobs", disk.folder / "v.mp4"
    video.write_bytes(b"an old video")
    failures = 0
    for space in range(0, len(undisturbed) + 2 * PAGE, PAGE):
        patch = before(video_job, "join_segments", lambda space=space: disk.fill(but=space))
        capsys.readouterr()
        code = run(inputs | {"-o": str(video), "--jobs-folder": str(jobs)})
        patch.undo()
        disk.enlarge()
        if not code:
            break
        failures += 1
        err = capsys.readouterr().err
        assert code == 1
        for text in (str(disk.folder), "No space left on device", "bytes free", "4 of 4 segments are saved"):
            assert text in err
        assert "Traceback" not in err
        assert video.read_bytes() == b"an old video"
        assert list(disk.folder.iterdir()) == [video]
        assert len(read_segments(jobs)) == 4
    assert failures >= 2
    assert rendered == [0, 1, 2, 3]
    assert video.read_bytes() == undisturbed
    assert list(disk.folder.iterdir()) == [video]


def test_a_read_only_folder(disk: Disk, refused: Any, resumes: Any) -> None:
    jobs = disk.folder / "jobs"
    with read_only(disk.folder):
        refused(str(jobs), "Read-only file system", "choose another")
    with ExitStack() as stack:
        patch = before_segment(2, lambda: stack.enter_context(read_only(jobs)))
        refused(str(jobs), "000002.safetensors", "Read-only file system", "2 of 4 segments")
        patch.undo()
        refused(str(jobs), "Read-only file system")
    assert len(read_segments(jobs)) == 2
    resumes(2, 3)


@pytest.mark.parametrize("deleted", ["", "segments", "speech"])
def test_a_folder_deleted_meanwhile(inputs: dict[str, str], refused: Any, resumes: Any, deleted: str) -> None:
    jobs = Path(inputs["--jobs-folder"])
    patch = before_segment(2, lambda: shutil.rmtree(next(jobs.glob(f"*/{deleted}")) if deleted else jobs))
    err = refused(str(jobs))
    patch.undo()
    assert "missing" in err or "No such file or directory" in err
    saved = 2 if deleted == "speech" else 0
    assert len(read_segments(jobs)) == saved
    assert ("segments are saved" in err) == bool(saved)
    resumes(*range(saved, 4))


def test_a_finished_segment_deleted_meanwhile(inputs: dict[str, str], refused: Any, resumes: Any) -> None:
    jobs = Path(inputs["--jobs-folder"])
    patch = before_segment(2, lambda: next(jobs.rglob("000001.safetensors")).unlink())
    refused("000001.safetensors", "3 of 4 segments are saved", "only this segment")
    patch.undo()
    resumes(1)


def test_a_file_in_place_of_the_folder(inputs: dict[str, str], refused: Any, resumes: Any) -> None:
    jobs = Path(inputs["--jobs-folder"])
    jobs.parent.mkdir()
    jobs.write_text("a file")
    refused(str(jobs), "Not a directory")
    assert jobs.read_text() == "a file"
    jobs.unlink()
    resumes(0, 1, 2, 3)
