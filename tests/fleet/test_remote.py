"""``hallo3 animate`` on machines that share a job: each has a folder of its own, the storage is common."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hallo3.fleet import objects, remote
from hallo3.fleet.claims import LOG, SEGMENTS, Claim
from hallo3.fleet.objects import Folder, RetriedObjects
from hallo3.jobs.segment_file import read_note
from support.resume_runs import Command, Undisturbed, before_segment, command_in


class Fleet:
    """Commands with the same inputs, on machines that are folders."""

    def __init__(self, folder: Path, model: Path, capture: Any) -> None:
        self.folder, self._first = folder, command_in(folder, model, capture)

    def machine(self, name: str) -> Command:
        inputs = self._first.inputs | {"--jobs-folder": str(self.folder / name / "jobs")}
        inputs |= {"-o": str(self.folder / name / "v.mp4"), "--share": str(self.folder / "shared")}
        (self.folder / name).mkdir(exist_ok=True)
        return Command(inputs, self._first.capture)

    def entries(self) -> list[dict[str, Any]]:
        """Of the one log."""
        (log,) = (self.folder / "shared" / LOG).iterdir()
        return [json.loads(path.read_bytes()) for path in sorted(log.iterdir())]


@pytest.fixture
def fleet(tmp_path: Path, nano_folder: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Fleet]:
    yield Fleet(tmp_path, nano_folder, capfd)
    remote.open_claim.cache_clear()


def kinds(fleet: Fleet) -> list[object]:
    return [entry.get("index", entry["kind"]) for entry in fleet.entries()]


def test_another_machine_resumes_and_the_video_is_the_same(fleet: Fleet, undisturbed: Undisturbed) -> None:
    first, second = fleet.machine("first"), fleet.machine("second")
    first.stop(2)
    text = second.stderr()
    assert second.rendered == [2, 3]
    assert "resuming after 2 of 4 finished segments" in text
    assert second.saved_segments() == undisturbed.segments
    assert second.video.read_bytes() == undisturbed.video
    assert kinds(fleet) == ["claim", 0, 1, "release", "claim", 2, 3, "video"]
    assert "finished before" in second.stdout()
    assert first.stdout()
    assert first.rendered == []
    assert first.video.read_bytes() == undisturbed.video, "its own copy, joined from what is shared"


def test_a_video_is_uploaded_and_its_job_is_beside_it(fleet: Fleet, undisturbed: Undisturbed) -> None:
    url = (fleet.folder / "bucket" / "a.mp4").as_uri()
    first, second = fleet.machine("first"), fleet.machine("second")
    assert first(upload=url, share=None) == 0
    assert (fleet.folder / "bucket/a.mp4").read_bytes() == undisturbed.video
    assert first.names_of_jobs() == set(), "what others may need is beside the video"
    assert len([*(fleet.folder / "bucket/hallo3_jobs" / SEGMENTS).glob("*/*")]) == 4
    assert f"{url}: finished before" in second.stdout(upload=url, share=None)
    assert second.rendered == []
    assert not second.video.exists()
    (fleet.folder / "bucket/a.mp4").unlink()
    assert second(upload=url, share=None) == 0
    assert second.rendered == []
    assert (fleet.folder / "bucket/a.mp4").read_bytes() == undisturbed.video


def test_a_machine_that_was_taken_for_dead_is_refused(fleet: Fleet, undisturbed: Undisturbed) -> None:
    """It stands still in its second segment; meanwhile another machine takes the job over, after a lease."""
    first, second = fleet.machine("first"), fleet.machine("second")
    here = dict[str, Any]()

    def stand_still() -> None:
        if here:
            return  # the other machine, in the same segment
        here["text"] = second.stderr(code=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Claim, "_check_lease", lambda *_: None)  # a lease later
            here["code"] = second()

    with before_segment(1, stand_still):
        text = first.stderr(code=1)
    assert "Another machine is working on this video." in here["text"]
    assert here["code"] == 0
    assert "Another machine has taken this video over." in text
    assert second.video.read_bytes() == undisturbed.video
    assert kinds(fleet) == ["claim", 0, "claim", 1, 2, 3, "video"]
    assert first() == 0
    assert first.rendered == []
    assert first.video.read_bytes() == undisturbed.video


def test_work_that_another_machine_has_replaced_gives_way(fleet: Fleet, undisturbed: Undisturbed) -> None:
    """Both machines finished segments 1 and 2; those of the shared log count."""
    first, second = fleet.machine("first"), fleet.machine("second")
    first.stop(3, share=None)
    second.stop(2)
    assert first() == 0
    assert first.rendered == [3]
    assert kinds(fleet) == ["claim", 0, 1, "release", "claim", 2, 3, "video"]
    assert first.saved_segments() == undisturbed.segments
    (third,) = (path for path in (fleet.folder / "shared" / SEGMENTS).glob("*/000001.*"))
    (mine,) = first.jobs.glob("*/segments/000001.safetensors")
    assert mine.read_bytes() == third.read_bytes()


@pytest.mark.parametrize("harm", ["cut", "other", "gone", "far", "foreign"])
def test_a_shared_segment_that_is_not_whole_is_rendered_again(
    fleet: Fleet, undisturbed: Undisturbed, harm: str
) -> None:
    first, second = fleet.machine("first"), fleet.machine("second")
    first.stop(2)
    (path,) = (fleet.folder / "shared" / SEGMENTS).glob("*/000001.*")
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "other":
        (other,) = (fleet.folder / "shared" / SEGMENTS).glob("*/000000.*")
        path.write_bytes(other.read_bytes())
    elif harm == "gone":
        path.unlink()
    else:  # an entry of a machine that lies: its hash is right
        lie = Claim(objects.open_objects(str(fleet.folder / "shared")), path.parent.name, "liar")
        assert lie.acquire()
        lie.commit(1 if harm == "foreign" else 999_999, b"no segment")
        lie.release()
    assert second() == 0
    assert second.rendered == ([2, 3] if harm == "far" else [1, 2, 3])
    assert second.video.read_bytes() == undisturbed.video
    assert [path.name for path in second.jobs.glob("*/segments/*")][4:] == []


def test_segments_are_redone_in_a_shared_job(fleet: Fleet) -> None:
    first, second = fleet.machine("first"), fleet.machine("second")
    assert first() == 0
    assert second(redo="2", take=3) == 0
    assert second.rendered == [1]
    assert kinds(fleet) == ["claim", 0, 1, 2, 3, "video", "claim", 1, "video"]
    (path,) = second.jobs.glob("*/segments/000001.safetensors")
    note = read_note(path)
    assert note is not None
    assert note[0].take == 3


class Weather(Folder):
    """A folder that fails in every second operation, before or after it is done."""

    count = 0

    def _fail(self) -> None:
        Weather.count += 1
        if Weather.count % 4 == 0:
            raise TimeoutError("no answer")

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
        self._fail()
        super().pipe_file(path, value, mode=mode)
        self._fail()

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        self._fail()
        return super().cat_file(path, start=start, end=end)


def test_a_storage_that_fails_now_and_then_changes_nothing(
    fleet: Fleet, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = list[float]()
    monkeypatch.setattr(
        objects, "open_objects", lambda place: RetriedObjects(Weather(), place, sleep=slept.append)
    )
    monkeypatch.setattr(remote, "open_objects", objects.open_objects)
    remote._open_checked.cache_clear()
    first, second = fleet.machine("first"), fleet.machine("second")
    first.stop(2)
    assert second() == 0
    assert kinds(fleet) == ["claim", 0, 1, "release", "claim", 2, 3, "video"]
    assert second.video.read_bytes() == undisturbed.video
    assert len(slept) > 5
    remote._open_checked.cache_clear()


def test_a_storage_that_is_gone_stops_the_run_and_keeps_what_is_finished(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fleet.machine("first")
    monkeypatch.setattr(objects, "DELAYS", (0.0,))

    def take_away() -> None:
        monkeypatch.setattr(Folder, "pipe_file", refuse)
        monkeypatch.setattr(Folder, "cat_file", refuse)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with before_segment(1, take_away):
        text = first.stderr(code=1)
    assert "The shared storage cannot be used." in text
    assert "2 of 4 segments are saved" in text
    monkeypatch.undo()
    assert first() == 0
    assert first.rendered == [2, 3]
    assert kinds(fleet) == ["claim", 0, "claim", 1, 2, 3, "video"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--fresh",), "A shared job cannot start over."),
        (("--upload", "videos/a.mp4"), "The video cannot be uploaded there."),
        (("--upload", "s3://bucket/a.mov"), "The video cannot be uploaded there."),
        (("--share", "ftp://host/jobs"), "Videos cannot be shared there."),
    ],
)
def test_what_cannot_be_shared_is_refused(fleet: Fleet, flags: tuple[str, ...], told: str) -> None:
    first = fleet.machine("first")
    assert told in first.stderr(*flags, code=2)
    assert first.rendered == []
