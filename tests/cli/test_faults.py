"""Full, read-only and vanished disks: the command says what is wrong, keeps what is finished, goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hallo3.cli.speech import Ear
from hallo3.jobs import render as video_job
from hallo3.media.mux import GrowingVideo
from support.kill_process import committed, notes
from support.resume_runs import before, before_segment, inputs_in, record_rendered, run
from support.small_disk import PAGE, Disk, read_only, small_disk

ENOUGH = 260 << 10
"""Bytes, for what is missing when one segment is finished, but not for the whole video."""


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> bytes:
    """The video of an undisturbed run."""
    inputs = inputs_in(tmp_path_factory.mktemp("wanted"), nano_folder)
    assert run(inputs) == 0
    return Path(inputs["-o"]).read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Jobs are kept on the small disk, where there is one."""
    return inputs_in(tmp_path, nano_folder) | {"--jobs-folder": str(tmp_path / "disk" / "jobs")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_rendered(monkeypatch)


def refused(inputs: dict[str, str], capsys: pytest.CaptureFixture[str], *said: str) -> str:
    """The command fails, and says all this, without a traceback."""
    capsys.readouterr()
    assert run(inputs) in {1, 2}
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "should not have" not in text
    for each in said:
        assert each in text, text
    return text


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_disk_that_is_full_of_finished_segments(
    inputs: dict[str, str],
    disk: Disk,
    drawn: list[int],
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
    index: int,
) -> None:
    """Then room is asked for what is missing only, not for what is finished already."""
    jobs = disk.folder / "jobs"
    patch = before_segment(index, disk.fill)
    text = refused(inputs, capsys, f"{index:06d}.safetensors: No space left on device, 0 bytes free")
    patch.undo()
    assert str(jobs) in text
    assert "bytes of free space" in text
    assert f"{index} of 4 segments are saved" in text
    found = notes(committed(jobs))
    assert len(found) == index
    disk.fill(but=ENOUGH)
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == list(range(index, 4))
    assert Path(inputs["-o"]).read_bytes() == wanted
    assert {name: each for name, each in notes(committed(jobs)).items() if name in found} == found


@pytest.mark.parametrize(
    ("place", "name", "room"),
    [(Ear, "listen", 0), *((video_job, "encode_soundtrack", n * PAGE) for n in range(3))],
    ids=["listening", "sound", "half the sound", "most of the sound"],
)
def test_a_disk_that_is_full_before_the_first_segment(
    inputs: dict[str, str],
    disk: Disk,
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
    place: Any,
    name: str,
    room: int,
) -> None:
    patch = before(place, name, lambda: disk.fill(but=room))
    refused(inputs, capsys, str(disk.folder / "jobs"), "No space left on device", "free some space")
    patch.undo()
    assert not list(disk.folder.rglob("*.safetensors"))
    disk.enlarge()
    assert run(inputs) == 0
    assert Path(inputs["-o"]).read_bytes() == wanted


def test_a_full_disk_under_the_growing_video(
    inputs: dict[str, str],
    disk: Disk,
    drawn: list[int],
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A segment is kept before it is appended."""
    video = Path(inputs["-o"])
    video.write_bytes(b"an old video")
    pieces = iter(range(4))
    patch = before(GrowingVideo, "append", lambda: next(pieces) == 2 and disk.fill())
    refused(inputs, capsys, "so_far.mp4: No space left on device, 0 bytes free", "3 of 4 segments")
    patch.undo()
    assert video.read_bytes() == b"an old video"
    assert len(committed(disk.folder / "jobs")) == 3
    disk.enlarge()
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [3]
    assert video.read_bytes() == wanted
    assert not list(disk.folder.rglob("so_far.*"))


def on_disk(inputs: dict[str, str], disk: Disk) -> tuple[dict[str, str], Path, Path]:
    """The video goes to the small disk, where one of that name is; jobs do not."""
    jobs = Path(inputs["--portrait"]).parent / "jobs"
    video = disk.folder / "v.mp4"
    video.write_bytes(b"an old video")
    return inputs | {"-o": str(video), "--jobs-folder": str(jobs)}, video, jobs


def test_a_full_disk_under_the_finished_video(
    inputs: dict[str, str],
    disk: Disk,
    drawn: list[int],
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs, video, jobs = on_disk(inputs, disk)
    failures = 0
    for room in range(0, len(wanted) + 2 * PAGE, PAGE):
        patch = before(video_job, "join_segments", lambda room=room: disk.fill(but=room))
        capsys.readouterr()
        code = run(inputs)
        patch.undo()
        disk.enlarge()
        if not code:
            break
        failures += 1
        said = capsys.readouterr().err
        assert code == 1
        assert "Traceback" not in said
        assert str(disk.folder) in said
        assert "No space left on device" in said
        assert "bytes free" in said
        assert "4 of 4 segments are saved" in said
        assert video.read_bytes() == b"an old video"
        assert sorted(path.name for path in disk.folder.iterdir()) == ["v.mp4"]
        assert len(committed(jobs)) == 4
    assert failures >= 2
    assert drawn == [0, 1, 2, 3]
    assert video.read_bytes() == wanted
    assert list(disk.folder.iterdir()) == [video]


def test_a_read_only_folder(
    inputs: dict[str, str],
    disk: Disk,
    drawn: list[int],
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = disk.folder / "jobs"
    with read_only(disk.folder):
        refused(inputs, capsys, str(jobs), "Read-only file system", "choose another")
    with ExitStack() as stack:
        patch = before_segment(2, lambda: stack.enter_context(read_only(jobs)))
        refused(inputs, capsys, str(jobs), "000002.safetensors", "Read-only file system", "2 of 4 segments")
        patch.undo()
        refused(inputs, capsys, str(jobs), "Read-only file system")
    assert len(committed(jobs)) == 2
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [2, 3]
    assert Path(inputs["-o"]).read_bytes() == wanted


@pytest.mark.parametrize("gone", ["", "segments", "speech"])
def test_a_folder_that_is_deleted_meanwhile(
    inputs: dict[str, str],
    drawn: list[int],
    wanted: bytes,
    capsys: pytest.CaptureFixture[str],
    gone: str,
) -> None:
    jobs = Path(inputs["--jobs-folder"])
    patch = before_segment(2, lambda: shutil.rmtree(next(jobs.glob(f"*/{gone}")) if gone else jobs))
    text = refused(inputs, capsys, str(jobs))
    patch.undo()
    assert "missing" in text or "No such file or directory" in text
    kept = 2 if gone == "speech" else 0
    assert len(committed(jobs)) == kept
    assert ("segments are saved" in text) == bool(kept)
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == list(range(kept, 4))
    assert Path(inputs["-o"]).read_bytes() == wanted


def test_a_finished_segment_that_is_deleted_meanwhile(
    inputs: dict[str, str], drawn: list[int], wanted: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Path(inputs["--jobs-folder"])
    patch = before_segment(2, lambda: next(jobs.rglob("000001.safetensors")).unlink())
    refused(inputs, capsys, "000001.safetensors", "3 of 4 segments are saved", "only this segment")
    patch.undo()
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [1]
    assert Path(inputs["-o"]).read_bytes() == wanted


def test_a_file_in_place_of_the_folder(
    inputs: dict[str, str], wanted: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Path(inputs["--jobs-folder"])
    jobs.parent.mkdir()
    jobs.write_text("a file")
    refused(inputs, capsys, str(jobs), "Not a directory")
    assert jobs.read_text() == "a file"
    jobs.unlink()
    assert run(inputs) == 0
    assert Path(inputs["-o"]).read_bytes() == wanted
