"""Hashes of facts and files."""

import errno
import json
import os
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hallo3.storage import files, hashing
from hallo3.storage.hashing import (
    FileHashCache,
    PartedHash,
    hash_facts,
    hash_file,
    hash_tensor,
    hash_text,
    identify,
)


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


def test_tensors_are_known_by_type_shape_and_values() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    wanted = sha256(b"torch.float32 [2, 3] " + values.numpy().tobytes()).hexdigest()
    assert hash_tensor(values) == hash_tensor(values.T.contiguous().T.requires_grad_()) == wanted
    others = values.double(), values.reshape(3, 2), values + 1, values.view(torch.int32)
    assert len({wanted, *map(hash_tensor, others)}) == 5
    assert hash_text("\ud800é") == sha256(b"\xed\xa0\x80\xc3\xa9").hexdigest()


def test_a_stream_of_several_parts_is_hashed_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "PART_BYTES", 4)
    for size in range(14):
        data = bytes(range(size))
        parts = [sha256(data[at : at + 4]).hexdigest() for at in range(0, size, 4)] or [sha256().hexdigest()]
        wanted = parts[0] if size <= 4 else sha256("".join(parts).encode()).hexdigest()
        for block, done in ((1, 0), (3, 0), (99, 0), (5, size // 4)):
            hashed = PartedHash(parts[:done])
            pieces = [
                piece
                for at in range(4 * done, size, block)
                for piece in hashed.split(data[at : at + block])
                if [hashed.update(piece)]
            ]
            assert b"".join(pieces) == data[4 * done :]
            assert hashed.hexdigest() == wanted, (size, block, done)
            assert hashed.parts == parts[: size // 4]
    hashed = PartedHash()
    assert [hashed.update(piece) for piece in hashed.split(bytes(9))] == [True, True, False]


def test_a_cache_without_a_file_is_kept_in_memory(tmp_path: Path) -> None:
    path, asked = tmp_path / "weights", list[Path]()
    path.write_bytes(b"x")

    def compute(path: Path) -> str:
        asked.append(path)
        return "0" * 64

    for place in (None, tmp_path / "weights" / "no folder"):
        cache = FileHashCache(place)
        assert [cache.get(path, compute) for _ in range(2)] == ["0" * 64] * 2
        assert asked == [path]
        asked.clear()
    place = tmp_path / "new" / "folder" / "cache.json"
    FileHashCache(place).remember(path, [1], {"a": 2})
    assert FileHashCache(place).recall(path, [1]) == {"seen": [1], "a": 2}
    assert FileHashCache(place).recall(path, [2]) == FileHashCache(place).recall(tmp_path, [1]) == {}
    assert str(path) not in place.read_text()
    FileHashCache(place).remember(path, [1], {"a": "x" * files.MAX_JSON_BYTES})
    assert FileHashCache(place).recall(path, [1])["a"][0] == "x"
    place.with_name("cache.json.unfinished").write_text("of a run that was killed")
    FileHashCache(place)
    assert [each.name for each in place.parent.iterdir()] == ["cache.json"]


def test_a_file_is_read_when_a_change_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()
    monkeypatch.setattr(hashing, "time", SimpleNamespace(time_ns=lambda: 10**9, sleep=slept.append))
    for age in (-1, hashing.TICK_NS, 0, hashing.TICK_NS - 1):
        hashing.await_tick([0, 0, 0, 10**9 - age])
    assert slept == [hashing.TICK_NS / 1e9] * 2


def test_a_link_is_followed_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 9)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert hash_file(tmp_path / "link") == sha256(b"x" * 9).hexdigest()
    with pytest.raises(OSError, match="symbolic link"):
        hash_file(tmp_path / "link", follow_links=False)
    with pytest.raises(OSError, match=r"\] changed while it was being read: ") as raised:
        hash_file(tmp_path / "file", lambda _: os.utime(tmp_path / "file", ns=(1, 1)))
    assert (raised.value.errno, raised.value.filename) == (errno.EBUSY, str(tmp_path / "file"))
    assert hash_file(tmp_path / "file", lambda _: (tmp_path / "file").chmod(0o600)), "does not matter"
