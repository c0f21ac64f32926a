"""Claims on a folder and in memory, entry by entry; schedules of many machines are in test_simulator.py."""

import json
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from hallo3.errors import BusyError, DependencyError, InputError, OutputError
from hallo3.fleet.claims import FORMAT, LOG, MAX_ENTRY_BYTES, SEGMENTS, Claim, LogState, Terms
from hallo3.fleet.objects import DELAYS, Folder, RetriedObjects, is_url, open_objects
from hallo3.storage import files

KEY, DIGEST = "k" * 64, "0" * 64
LEASE = Terms().lease * (1 + Terms().skew)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=("folder", "file", "memory"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "folder": str(tmp_path / "shared"),
        "file": f"file://{tmp_path}/shared",
        "memory": f"memory://{tmp_path}",
    }[request.param]


def claims(place: str, *owners: str) -> tuple[Clock, list[Claim]]:
    clock = Clock()
    return clock, [Claim(open_objects(place), KEY, owner, "cpu", clock=clock) for owner in owners]


def test_a_job_goes_to_another_machine_and_the_old_owner_is_refused(place: str) -> None:
    open_objects(place).check_exclusive()
    clock, (first, second) = claims(place, "first", "second")
    assert first.acquire()
    first.commit(0, b"zero")
    with pytest.raises(BusyError, match="claimed by first"):
        second.acquire()
    clock.now += LEASE - 1
    first.renew()
    with pytest.raises(BusyError):
        second.acquire()  # a sign of life: the lease starts over
    clock.now += LEASE + 1
    assert second.acquire()
    assert second.epoch == 2
    assert second.fetch(0, 4) == b"zero"
    for late in (
        lambda: first.commit(1, b"one"),
        lambda: first.finish(DIGEST, 1),
        first.renew,
        first.check,
    ):
        with pytest.raises(BusyError, match="taken this video over"):
            late()
    first.release()
    second.commit(1, b"uno")
    second.finish(DIGEST, 3)
    _, (reader,) = claims(place, "reader")
    state = reader.look()
    assert state == second.state
    assert reader.fetch(1, 3) == b"uno"
    assert state.last == 1
    assert (state.owner, state.place, state.is_open) == ("second", "cpu", False)
    assert not first.acquire()
    assert not reader.acquire()


def test_a_released_job_and_ones_own_are_taken_at_once(place: str) -> None:
    _, (first, again, other) = claims(place, "first", "first", "other")
    assert first.acquire()
    assert again.acquire()
    with pytest.raises(BusyError):
        first.commit(0, b"zero")
    again.release()
    assert other.acquire()
    assert other.epoch == 3


def test_only_a_video_that_is_gone_is_made_again(place: str) -> None:
    _, (first, second) = claims(place, "first", "second")
    first.acquire()
    first.finish(DIGEST, 1)
    gone = second.look().video
    assert second.acquire(gone)
    assert not second.state.video
    second.finish(DIGEST, 1)
    assert not first.acquire(gone), "made again meanwhile"


def test_what_is_no_entry_counts_for_nothing() -> None:
    def entry(**fields: object) -> bytes:
        return json.dumps({"format": FORMAT, "kind": "segment", "epoch": 1, **fields}).encode()

    segment = {"index": 0, "hash": DIGEST, "size": 1}
    claim = entry(kind="claim", owner="o", place="p")
    bad = [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{" * 5000,
        claim,
        entry(**segment, epoch=2),
        entry(kind="release", epoch=0),
    ]
    bad += [
        entry(**segment | {name: value}) for name in segment for value in (-1, 1 << 60, None, [], "x", True)
    ]
    bad += [
        entry(kind="claim", epoch=2),
        entry(kind="claim", epoch=2.0, owner="", place=""),
        entry(kind="video"),
    ]
    state = LogState()
    state.apply(entry(**segment))
    assert state == LogState(position=1), "a segment without a claim"
    state.apply(claim)
    for data in bad:
        state.apply(data)
    assert (state.position, state.epoch, state.is_open, state.segments) == (2 + len(bad), 1, True, {})
    state.apply(entry(**segment))
    assert state.segments[0].size == 1
    with pytest.raises(OutputError, match="newer version"):
        state.apply(entry(format=FORMAT + 1))


def test_a_segment_that_was_cut_or_changed_is_none(tmp_path: Path) -> None:
    _, (claim,) = claims(str(tmp_path), "o")
    claim.acquire()
    claim.commit(7, b"seven")
    (path,) = (tmp_path / SEGMENTS / KEY).iterdir()
    assert claim.fetch(7, 5) == b"seven"
    assert claim.fetch(7, 4) is None
    assert claim.fetch(6, 5) is None
    for content in (b"", b"seve", b"sEven", b"sevens"):
        path.write_bytes(content)
        assert claim.fetch(7, 5) is None
    path.unlink()
    assert claim.fetch(7, 5) is None


def create_many(folder: str, owner: str, barrier: Any, answers: Any) -> None:
    objects = open_objects(folder)
    for number in range(100):
        barrier.wait()
        answers.put((number, objects.create(f"race/{number}", owner.encode())))


def test_of_two_processes_that_create_one_object_at_once_one_wins(tmp_path: Path) -> None:
    context = get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    racer = context.Process(target=create_many, args=(str(tmp_path), "a", barrier, answers))
    racer.start()
    create_many(str(tmp_path), "b", barrier, answers)
    found = dict[int, set[bytes]]()
    for _ in range(200):
        number, stands = answers.get(timeout=60)
        found.setdefault(number, set()).add(stands)
    racer.join()
    assert all(len(each) == 1 for each in found.values())
    assert {path.name for path in (tmp_path / "race").iterdir()} == {str(n) for n in range(100)}


class Faulty(Folder):
    """Fails ``failures`` times in turn, before or after it did what was asked."""

    def __init__(self, failures: int, *, late: bool, error: Exception) -> None:
        self.failures, self.late, self.error = failures, late, error

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
        self.failures -= 1
        if self.failures >= 0 and not self.late:
            raise self.error
        super().pipe_file(path, value, mode=mode)
        if self.failures >= 0:
            raise self.error


@pytest.mark.parametrize("late", [False, True])
def test_a_storage_that_fails_for_a_while_is_asked_again(tmp_path: Path, late: bool) -> None:
    slept = list[float]()
    storage = Faulty(2, late=late, error=TimeoutError("no answer"))
    objects = RetriedObjects(storage, str(tmp_path), sleep=slept.append)
    assert objects.create("a", b"mine") == b"mine"
    assert objects.create("a", b"other") == b"mine"
    assert len(slept) == (0 if late else 2), "the object was there already"
    storage.failures = 3
    objects.write("b", b"1")
    assert objects.read("b", 9) == b"1"


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), TimeoutError("no answer")])
def test_a_storage_that_stays_broken_is_an_error_that_says_so(tmp_path: Path, error: Exception) -> None:
    slept = list[float]()
    objects = RetriedObjects(Faulty(99, late=False, error=error), str(tmp_path), sleep=slept.append)
    for ask in (lambda: objects.create("a", b""), lambda: objects.write("a", b"")):
        with pytest.raises(OutputError, match=f"storage cannot be used.*\n.*{error.args[-1]}"):
            ask()
    assert len(slept) == (0 if isinstance(error, PermissionError) else 2 * len(DELAYS))


def test_a_storage_that_overwrites_what_is_created_is_refused(tmp_path: Path) -> None:
    class Overwriting(Folder):
        def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
            super().pipe_file(path, value, mode=mode.replace("create", "overwrite"))

    with pytest.raises(InputError, match="cannot keep two machines"):
        RetriedObjects(Overwriting(), str(tmp_path)).check_exclusive()


def test_a_folder_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", refuse)
    with pytest.raises(OutputError, match="no hard links"):
        open_objects(str(tmp_path)).check_exclusive()
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_places_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_url("s3://bucket/x")
    assert not is_url("C:\\videos")
    assert not is_url("videos/a.mp4")
    with pytest.raises(InputError, match="ftp://"):
        open_objects("ftp://host/videos")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DependencyError, match="pip install s3fs"):
        open_objects("s3://bucket/videos")


def test_an_upload_is_whole_and_leaves_nothing_else(tmp_path: Path, place: str) -> None:
    source, objects = tmp_path / "video", open_objects(place)
    for content in (b"first", b"second"):
        source.write_bytes(content)
        objects.upload(source, "videos/a.mp4")
        assert objects.read("videos/a.mp4", 99) == content
    assert objects.read(f"{LOG}/none", MAX_ENTRY_BYTES) is None
