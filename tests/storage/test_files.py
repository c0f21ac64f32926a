"""After any fault a file is the old one or the new one, on POSIX and on Windows."""

import errno
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hallo3.storage import files
from hallo3.storage.files import (
    finalize_file,
    open_regular,
    temporary_path,
    write_atomic,
    write_error,
    write_json,
)
from support.fault_injection import Fault, faults_in

BLOCKS = [b"one ", b"two ", b"three"]


@pytest.mark.parametrize("kind", ["full", "broken", "kill"])
@pytest.mark.parametrize("before", [None, b"the previous content"])
def test_after_any_fault_the_file_is_the_old_or_the_new_one(tmp_path: Path, kind: str, before: Any) -> None:
    path, seen = tmp_path / "file", set[bytes | None]()
    for number in range(1, 100):
        temporary_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)
        with faults_in(number, kind) as fault, suppress(OSError, Fault):
            write_atomic(path, BLOCKS)
        seen.add(path.read_bytes() if path.exists() else None)
        if not fault:
            assert [p.name for p in tmp_path.iterdir()] == ["file"]
            break
        if kind != "kill" and fault != ["fsync folder"]:
            assert not temporary_path(path).exists()
    assert number > 6
    assert seen == {before, b"one two three"}


@pytest.mark.parametrize("delays", [2, 3])
def test_windows_waits_for_an_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delays: int) -> None:
    tries, real = list[int](), Path.replace

    def busy(self: Path, target: Path) -> Path:
        tries.append(1)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(files, "REPLACE_DELAYS", (0.0,) * delays)
    with pytest.raises(PermissionError) if delays < 3 else nullcontext():
        write_atomic(tmp_path / "file", BLOCKS)
    assert len(tries) == delays + 1


def test_only_a_folder_that_supports_no_sync_is_ignored(tmp_path: Path) -> None:
    for number, outcome in (errno.EINVAL, nullcontext()), (errno.EIO, pytest.raises(OSError, match="output")):
        with patch.object(os, "fsync", side_effect=OSError(number, os.strerror(number))), outcome:
            files._sync_folder(tmp_path)


def test_a_file_by_another_library_is_adopted(tmp_path: Path) -> None:
    (tmp_path / "fresh").write_bytes(b"x")
    finalize_file(tmp_path / "fresh", tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_reported_with_its_free_space(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left")
    text = str(write_error("It cannot be saved.", tmp_path / "file", full, 12345))
    for part in ("12,345 bytes of free space", "bytes free", "it resumes where it stopped"):
        assert part in text


@pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")
def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    pipe, link, file = (tmp_path / name for name in ("pipe", "link", "file"))
    os.mkfifo(pipe)
    file.write_bytes(b"content")
    link.symlink_to(file)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            open_regular(path)
    with pytest.raises(OSError, match="symbolic link"):
        open_regular(link, follow_links=False)
    for path, follow in ((file, False), (link, True)):
        with open_regular(path, follow_links=follow) as opened:
            assert opened.read() == b"content"


def test_values_that_are_nested_too_deeply_are_not_written(tmp_path: Path) -> None:
    """They can be read where there is more room."""
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(OSError, match="recursion"):
        write_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links and devices of POSIX")
def test_a_new_file_replaces_a_link_and_no_device(tmp_path: Path) -> None:
    """Other names of the old file keep its bytes."""
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / "link").symlink_to(kept)
    os.link(kept, tmp_path / "second")
    for name in ("link", "second", "new"):
        os.close(files.create_file(tmp_path / name))
        assert (tmp_path / name).lstat().st_size == 0
    assert kept.read_text() == "mine"
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(OSError, match="exists"):
            files.create_file(path)
