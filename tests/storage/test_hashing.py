"""Hashes of facts and files."""

from pathlib import Path

import pytest

from hallo3.storage.hashing import FileHashCache, hash_facts, hash_file


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
