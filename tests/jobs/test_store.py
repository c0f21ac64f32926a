"""Jobs are listed, cleared by hand and by rule; paces and hashes are remembered."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hallo3.errors import InputError
from hallo3.jobs.estimate import THROUGHPUT_FILENAME as PACES
from hallo3.jobs.estimate import Throughput, read_throughput, save_throughput
from hallo3.jobs.job import open_job
from hallo3.jobs.store import DAY_SECONDS, clear_job, list_jobs, remove_stale_jobs, set_job_aside
from hallo3.storage.hashing import FileHashCache, hash_facts, hash_file
from support.toy_renderer import SEGMENTS, Toy


def aged(jobs: Path, name: str, days: float) -> None:
    when = time.time() - days * DAY_SECONDS
    for path in next(jobs.glob(f"{name}*")).rglob("*"):
        os.utime(path, (when, when))


def finish(jobs: Path, root: str) -> None:
    toy = Toy(root)
    toy.run(jobs)
    with open_job(jobs, toy.manifest) as job:
        job.finish()


def test_jobs_are_listed_with_what_is_done(tmp_path: Path) -> None:
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
    for name, done, days in [
        ("a", True, 8),
        ("b", True, 6),
        ("c", False, 8),
        ("d", False, 31),
        ("e", True, 9),
    ]:
        finish(tmp_path, name) if done else Toy(name).run(tmp_path)
        aged(tmp_path, name, days)
    held = Toy("e")
    with open_job(tmp_path, held.manifest):
        aged(tmp_path, "e", 9)
        gone = {job.name[0] for job in remove_stale_jobs(tmp_path, "b" + "k" * 30)}
    assert gone == {"a", "d"}
    assert {job.name[0] for job in list_jobs(tmp_path)} == {"b", "c", "e"}


def test_a_job_is_removed_by_the_start_of_its_name(tmp_path: Path) -> None:
    for name in ("ab", "ac"):
        Toy(name).run(tmp_path)
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
        aside = set_job_aside(tmp_path, toy.manifest.key)
        assert aside is not None
        assert aside.name.endswith(f".old-{number}")
    again = Toy()
    again.run(tmp_path)
    assert len(again.rendered) == SEGMENTS
    assert len(list_jobs(tmp_path)) == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": 3}', '{"kind": {"seconds": "x"}}', "[" * 9999])
def test_a_throughput_file_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / PACES).write_text(text)
    assert read_throughput(tmp_path, "kind") is None
    save_throughput(tmp_path, "kind", Throughput(2.0, 300.0))
    assert read_throughput(tmp_path, "kind") == Throughput(2.0, 300.0)
    for number in range(300):
        save_throughput(tmp_path, str(number), Throughput(1.0, 1.0))
    assert read_throughput(tmp_path, "kind") is None
    save_throughput(tmp_path / "nowhere", "kind", Throughput(1.0, 1.0))


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path, reads = tmp_path / "weights", list[int]()
    path.write_bytes(b"x" * 3_000_000)
    cache = tmp_path / "cache.json"

    def get() -> str:
        return FileHashCache(cache).get(path, lambda path: hash_file(path, reads.append))

    first = get()
    assert first == hash_file(path)
    assert sum(reads) == 3_000_000
    reads.clear()
    assert get() == first
    assert reads == []
    path.write_bytes(b"y" * 3_000_000)
    assert get() != first
    cache.write_text("[" * 9999)
    assert get() == hash_file(path)


def test_a_key_is_the_facts_in_any_order() -> None:
    assert hash_facts({"a": 1, "b": [2, {"c": "d"}]}) == hash_facts({"b": [2, {"c": "d"}], "a": 1})
    assert len({hash_facts({"a": value}) for value in (1, 2, "1", 1.5, None, [1])}) == 6
    with pytest.raises(ValueError, match="not JSON compliant"):
        hash_facts({"a": float("nan")})
