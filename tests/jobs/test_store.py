"""Jobs are listed, removed by hand or by age, and set aside."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hallo3.errors import InputError
from hallo3.jobs import store
from hallo3.jobs.job import open_job
from hallo3.jobs.store import (
    DAY_SECONDS,
    clear_job,
    find_finished_job,
    list_jobs,
    remove_stale_jobs,
    set_job_aside,
)
from support.toy_renderer import FORM, SEGMENTS, Toy, rerun


def finish(jobs: Path, root: str) -> None:
    toy = Toy(root)
    toy.run(jobs)
    with open_job(jobs, toy.manifest, FORM) as job:
        job.finish()


def test_jobs_are_listed_with_their_finished_segments(tmp_path: Path) -> None:
    finish(tmp_path, "aaa")
    Toy("bbb").run(tmp_path)
    next(tmp_path.glob("bbb*/segments/000004*")).unlink()
    (tmp_path / "something else").mkdir()
    (tmp_path / "a file").touch()
    found = {job.name[:3]: job for job in list_jobs(tmp_path)}
    assert found.keys() == {"aaa", "bbb"}
    assert (found["aaa"].done, found["aaa"].manifest.finished) == (SEGMENTS, True)
    assert (found["bbb"].done, found["bbb"].manifest.finished) == (SEGMENTS - 1, False)
    assert found["aaa"].size > 1000
    assert list_jobs(tmp_path / "nowhere") == []


def test_only_stale_jobs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days with runs count, not the clock."""
    today = 20_000.0
    monkeypatch.setattr(store, "time", SimpleNamespace(time=lambda: today * DAY_SECONDS))

    def removed_on(days: float, current: str = "f") -> set[str]:
        nonlocal today
        today += days
        return {job.name[0] for job in remove_stale_jobs(tmp_path, current.ljust(64, "0"))}

    for name, done in {"a": True, "b": True, "c": False, "e": True}.items():
        finish(tmp_path, name) if done else Toy(name).run(tmp_path)
    assert removed_on(0) == set()
    for days in (400, -800, 300, 30, -1, 0.3, 1):  # four days later than the one before
        assert removed_on(days) == set(), "a clock that is wrong"
    Toy("b").run(tmp_path)
    assert [removed_on(1) for _ in range(2)] == [set(), set()]
    with open_job(tmp_path, Toy("e").manifest, FORM):  # locked, and used
        assert removed_on(1) == {"a"}
    assert removed_on(3, "b") == set()
    assert [removed_on(1) for _ in range(5)] == [set(), set(), set(), {"b"}, set()]
    assert {job.name[0] for job in list_jobs(tmp_path)} == {"c", "e"}
    since = {job.name: [job.used, 0] for job in list_jobs(tmp_path)}
    for days in (store.MAX_DAYS, 10**4000, -1, True, None, "9"):
        text = json.dumps({"last": 0, "jobs": since, "days": ...}, default=lambda _: "days")
        (tmp_path / "ages.json").write_text(text.replace('"days"}', f"{json.dumps(days)}}}"))
        assert removed_on(1) == set(), "the count starts again"
    (tmp_path / "ages.json").write_text(json.dumps({"days": 29, "last": 0, "jobs": since}))
    assert removed_on(1, "e") == {"c"}
    assert removed_on(0) == {"e"}


def test_a_job_that_another_continues_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While that one is not finished and not stale itself."""
    today = 20_000
    monkeypatch.setattr(store, "time", SimpleNamespace(time=lambda: today * DAY_SECONDS))
    for name in ("a", "b"):
        finish(tmp_path, name)
    more = Toy("c")
    more.manifest = replace(more.manifest, what={"goes on from": Toy("a").manifest.key[:16]})
    more.run(tmp_path)
    removed = list[tuple[int, str]]()
    for day in range(40):
        today += 1
        removed += [(day, job.name[0]) for job in remove_stale_jobs(tmp_path, "f" * 64)]
    assert removed == [(7, "b"), (30, "c"), (30, "a")] or removed == [(7, "b"), (30, "a"), (30, "c")]


def test_a_job_is_removed_by_the_start_of_its_name(tmp_path: Path) -> None:
    Toy("ab").run(tmp_path)
    Toy("ac").run(tmp_path)
    with pytest.raises(InputError, match="no jobs at all"):
        clear_job(tmp_path / "nowhere", "a")
    for wrong in ("a", "x", "", "../ab"):
        with pytest.raises(InputError):
            clear_job(tmp_path, wrong)
    assert clear_job(tmp_path, "ab").name.startswith("ab")
    assert [job.name[:2] for job in list_jobs(tmp_path)] == ["ac"]


def test_a_job_that_is_set_aside_is_kept_and_starts_over(tmp_path: Path) -> None:
    toy = Toy()
    assert set_job_aside(tmp_path, toy.manifest.key) is None
    for number in (1, 2):
        toy.run(tmp_path)
        assert set_job_aside(tmp_path, toy.manifest.key).name.endswith(f".old-{number}")
    assert len(rerun(tmp_path)[1]) == SEGMENTS
    assert len(list_jobs(tmp_path)) == 3


def test_what_killed_runs_leave_is_removed(tmp_path: Path) -> None:
    """Unfinished copies, and jobs that were being deleted, whatever was left of them; nothing else."""
    for root in ("a", "b", "c"):
        Toy(root).run(tmp_path)
        folder = next(tmp_path.glob(f"{root}0*"))
        folder.rename(folder.with_name(f"{folder.name}.gone{'' if root == 'a' else 1}"))
    shutil.rmtree(next(tmp_path.glob("b*")) / "segments")
    for path in [path for path in next(tmp_path.glob("c*")).rglob("*") if path.is_file()]:
        path.unlink()
    names = [f"{name}.json.unfinished" for name in ("pace", "contents", "ages")]
    foreign = [tmp_path / "x.json.unfinished", tmp_path / "x.gone", tmp_path / f"{'d' * 16}.gone"]
    for path in (*(tmp_path / name for name in names), *foreign):
        path.write_text("1")
    Toy().run(tmp_path)
    remove_stale_jobs(tmp_path, Toy().manifest.key)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"ages.json", Toy().manifest.key[:16], *(path.name for path in foreign)}


def test_a_job_without_its_segments_hides_no_other(tmp_path: Path) -> None:
    """Whoever writes the hash of a video into a job of theirs does not stop the one that made it."""
    for root in ("aaa", "bbb"):  # the last is looked at first
        toy = Toy(root)
        toy.run(tmp_path)
        with open_job(tmp_path, toy.manifest, FORM) as job:
            job.finish("the same video")
    next(tmp_path.glob("bbb*/segments/000004*")).unlink()
    found = find_finished_job(tmp_path, "", "the same video")
    assert found is not None
    assert found.root.startswith("aaa")
    assert find_finished_job(tmp_path, found.key[:16]) == found
    assert find_finished_job(tmp_path, "", "another video") is find_finished_job(tmp_path, "") is None
    next(tmp_path.glob("aaa*/segments/000004*")).unlink()
    with pytest.raises(InputError, match="not complete any more"):
        find_finished_job(tmp_path, "", "the same video")
