"""Hashes of facts and files."""

import json
import os
from pathlib import Path

import pytest

from hallo3.storage.hashing import FileHashCache, hash_facts, hash_file, identify


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


def test_a_change_in_place_is_noticed_though_size_and_time_are_kept(tmp_path: Path) -> None:
    path, cache = tmp_path / "weights", FileHashCache(tmp_path / "cache.json")
    path.write_bytes(b"x" * 1000)
    for letter in b"abcdef":
        seen, times = cache.get(path), path.stat()
        with path.open("r+b") as file:
            file.write(bytes([letter]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert identify(path)[:3] == [1000, times.st_mtime_ns, times.st_ino]
        assert cache.get(path) == hash_file(path) != seen


def test_a_file_that_changes_or_is_replaced_meanwhile_is_not_remembered(tmp_path: Path) -> None:
    path, cache = tmp_path / "weights", tmp_path / "cache.json"
    path.write_bytes(b"x" * 3_000_000)

    def replaced(path: Path) -> str:
        (tmp_path / "other").write_bytes(b"y" * 3_000_000)
        (tmp_path / "other").replace(path)
        return "0" * 64

    assert FileHashCache(cache).get(path, replaced) == "0" * 64
    assert FileHashCache(cache).get(path) == hash_file(path)
    with pytest.raises(OSError, match="changed while"):
        hash_file(path, lambda _: os.truncate(path, 9))
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            hash_file(other)


def test_records_of_earlier_versions_are_unknown(tmp_path: Path) -> None:
    path, cache = tmp_path / "weights", tmp_path / "cache.json"
    path.write_bytes(b"x")
    FileHashCache(cache).get(path)
    name, entry = json.loads(cache.read_text()).popitem()
    for seen in (entry["seen"][:3], [], None, "x", {"a": 1}):
        cache.write_text(json.dumps({name: entry | {"seen": seen, "sha256": "0" * 64}}))
        assert FileHashCache(cache).get(path) == hash_file(path)


def test_a_key_is_the_facts_in_any_order() -> None:
    assert hash_facts({"a": 1, "b": [2, {"c": "d"}]}) == hash_facts({"b": [2, {"c": "d"}], "a": 1})
    assert len({hash_facts({"a": value}) for value in (1, 2, "1", 1.5, None, [1])}) == 6
    with pytest.raises(ValueError, match="not JSON compliant"):
        hash_facts({"a": float("nan")})
