"""Jobs are listed, removed by hand or by age, and set aside."""

import os
import time
from pathlib import Path

import pytest

from hallo3.errors import InputError
from hallo3.jobs.job import open_job
from hallo3.jobs.store import DAY_SECONDS, clear_job, list_jobs, remove_stale_jobs, set_job_aside
from support.toy_renderer import SEGMENTS, Toy, rerun


def set_age(jobs: Path, name: str, days: float) -> None:
    when = time.time() - days * DAY_SECONDS
    for path in next(jobs.glob(f"{name}*")).rglob("*"):
        os.utime(path, (when, when))


def finish(jobs: Path, root: str) -> None:
    toy = Toy(root)
    toy.run(jobs)
    with open_job(jobs, toy.manifest) as job:
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


def test_only_stale_jobs_are_removed(tmp_path: Path) -> None:
    ages = {"a": (True, 8), "b": (True, 6), "c": (False, 8), "d": (False, 31), "e": (True, 9)}
    for name, (done, days) in ages.items():
        finish(tmp_path, name) if done else Toy(name).run(tmp_path)
        set_age(tmp_path, name, days)
    with open_job(tmp_path, Toy("e").manifest):  # locked
        set_age(tmp_path, "e", 9)
        removed = {job.name[0] for job in remove_stale_jobs(tmp_path, "b" + "k" * 30)}
    assert removed == {"a", "d"}
    assert {job.name[0] for job in list_jobs(tmp_path)} == {"b", "c", "e"}


def test_a_job_is_removed_by_the_start_of_its_name(tmp_path: Path) -> None:
    Toy("ab").run(tmp_path)
    Toy("ac").run(tmp_path)
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
