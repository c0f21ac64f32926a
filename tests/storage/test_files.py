"""After any fault a file is the old one or the new one, on POSIX and on Windows."""

import errno
import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from hallo3.storage import files
from hallo3.storage.files import (
    finalize_file,
    is_plain_file,
    is_plain_folder,
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
            files.sync_folder(tmp_path)


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
    with pytest.raises(OSError, match=r"\] a symbolic link, not a file: ") as raised:
        open_regular(link, follow_links=False)
    assert (raised.value.errno, raised.value.filename) == (errno.ELOOP, str(link))
    with open_regular(link) as opened:
        assert opened.read() == b"content"
    for path, follow in ((file, False), (link, True)):
        with open_regular(path, follow_links=follow) as opened:
            assert opened.read() == b"content"


def test_values_that_are_nested_too_deeply_are_not_written(tmp_path: Path) -> None:
    """They can be read where there is more room."""
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(OSError, match="recursion") as raised:
        write_json(tmp_path / "a.json", value)
    assert (raised.value.errno, raised.value.filename) == (errno.EINVAL, str(tmp_path / "a.json"))
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


def test_a_second_name_for_a_file_outlives_the_first(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "new" / "folder" / "b"
    source.write_bytes(b"content")
    for number in (1, 2):  # again: both are names of one file
        files.link_or_copy(source, target)
        assert (target.stat().st_ino, target.stat().st_nlink) == (source.stat().st_ino, 2), number
        temporary_path(target).write_text("of a run that was killed")
    with patch.object(os, "link", side_effect=OSError(errno.EXDEV, "another disk")):
        files.link_or_copy(source, target)
    assert target.stat().st_ino != source.stat().st_ino
    source.unlink()
    assert target.read_bytes() == b"content"
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(source, target)
    assert target.read_bytes() == b"content"


def test_a_disk_is_measured_in_eight_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file's beginning to its end, past the system's cache."""
    path, asked, clock = tmp_path / "weights", list[tuple[int, ...]](), iter([5.0, 5.5, 7.0, 7.0])
    path.write_bytes(bytes(800))
    monkeypatch.setattr(files, "RATE_BLOCK_BYTES", 100)
    monkeypatch.setattr(files.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *how: asked.append(how), raising=False)
    assert files.measure_read_rate(path) == 800 / 0.5
    assert asked == [(place, 100, os.POSIX_FADV_DONTNEED) for place in range(0, 800, 100)]
    path.write_bytes(bytes(8))
    assert files.measure_read_rate(path) == 64 / 1e-6


FOREIGN = {
    b"\xef\xbb\xbf\r\n\t <!DOCTYPE html>": "a web page",
    b" " * 63 + b"<": "a web page",
    b" " * 64 + b"<": "",
    b"version https://git-lfs.github.com": "a Git LFS pointer, not the file itself",
    b"PK\3\4": "an archive that is still packed",
    b"text": "",
}


def test_what_arrives_in_place_of_a_file_is_named() -> None:
    assert {content: files.describe_foreign(content) for content in FOREIGN} == FOREIGN


JSON = {
    '{"a": 1.5, "b": [{}]}': "",
    '{"a": 1, "a": 1}': "a name that comes twice",
    '{"a": [{"b": 1, "b": 2}]}': "a name that comes twice",
    '{"a": NaN}': "nan, which is no finite number",
    '{"a": -Infinity}': "-Infinity, which is no finite number",
    '{"a": 1e999}': "1e999, which is no finite number",
    '{"a": ' + "9" * 400 + ".0}": "9" * 20 + ", which is no finite number",
    "[1]": "not a JSON object",
    "[" * 100_000: "nested too deeply",
    "{": "Expecting property name",
}
LAX = ("comes twice", "finite")
"""What is wrong only to strict readers."""


def test_json_of_others_is_read_strictly(tmp_path: Path) -> None:
    for text, message in JSON.items():
        for strict in (True, False):
            wrong = message and (strict or not any(word in message for word in LAX))
            with pytest.raises(ValueError, match=f"(?i)^{message}") if wrong else nullcontext():
                assert isinstance(files.parse_json_object(text, strict=strict), dict)
    path, link = tmp_path / "a.json", tmp_path / "link"
    write_json(path, {"a": [1, "ä"]})
    link.symlink_to(path)
    size = path.stat().st_size
    assert files.read_json_object(path, size) == files.read_json_object(link) == {"a": [1, "ä"]}
    assert files.read_json_or_empty(path, size) == {"a": [1, "ä"]}
    with pytest.raises(ValueError, match=f"more than {size - 1:,} bytes"):
        files.read_json_object(path, size - 1)
    for place, most in ((path, size - 1), (link, size), (tmp_path / "none", size)):
        assert files.read_json_or_empty(place, most) == {}
    path.write_text(" " * files.MAX_JSON_BYTES + "{}")
    assert files.read_json_or_empty(path) == {}
    path.write_text(" " * (files.MAX_JSON_BYTES - 2) + "{}")
    assert files.read_json_object(path) == {}


def test_an_error_of_the_disk_says_where_it_is(tmp_path: Path) -> None:
    place = str(tmp_path / "other")
    for error, needed, found, expected in (
        (OSError(errno.EIO, "Broken", place), 0, f"{place}: Broken", "a folder that exists"),
        (OSError(errno.EACCES, "Denied"), 7, f"{tmp_path / 'file'}: Denied", "a folder that exists"),
        (OSError("words only"), 0, f"{tmp_path / 'file'}: words only", "a folder that exists"),
        *((OSError(number, "Full"), 0, ": Full, ", "a disk with free space") for number in files.DISK_FULL),
    ):
        told = write_error("It cannot be saved.", tmp_path / "file", error, needed)
        assert (told.headline, told.found[: len(found)]) == ("It cannot be saved.", found) or found[0] == ":"
        assert found in told.found
        assert told.expected.startswith(expected)
    with patch.object(files.shutil, "disk_usage", side_effect=OSError):
        assert "an unknown number of bytes free" in str(write_error("x", tmp_path / "file", error))
    monkeyed = SimpleNamespace(free=1234567)
    with patch.object(files.shutil, "disk_usage", return_value=monkeyed) as asked:
        assert files.free_disk(tmp_path / "not" / "made" / "yet") == 1234567
        assert asked.call_args.args == (tmp_path,)
        disk = next(folder for folder in (tmp_path, *tmp_path.parents) if folder.is_mount())
        text = str(write_error("x", tmp_path / "file", error))
        assert f"1,234,567 bytes free on the disk {disk}\n" in text


def test_what_leads_elsewhere_is_no_file_and_no_folder(tmp_path: Path) -> None:
    """Windows' junctions too; a file in the cloud is one."""
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    for path, plain in ((tmp_path, (False, False, True)), (tmp_path / "a", (True, False, False))):
        status = path.stat()
        for tag, leads in ((0, False), (0x9000001A, False), (0xA0000003, True)):
            with_tag: Any = SimpleNamespace(
                st_mode=status.st_mode, st_nlink=status.st_nlink, st_reparse_tag=tag
            )
            kinds = (is_plain_file(with_tag), is_plain_file(with_tag, own=True), is_plain_folder(with_tag))
            assert kinds == ((False,) * 3 if leads else plain)
    (tmp_path / "b").unlink()
    assert is_plain_file((tmp_path / "a").lstat(), own=True)


def test_our_files_are_listed_by_their_folders(tmp_path: Path) -> None:
    names = {"": re.compile(r"a\.\w+"), "sub": re.compile("b"), "none": re.compile("c")}
    (tmp_path / "sub").mkdir()
    for name in ("a.json", "a.mp4", "b", "sub/b", "sub/a.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a.link").symlink_to(tmp_path / "nowhere")
    listed = files.list_files(tmp_path, names, re.compile(r"a\.link"))
    wanted = [tmp_path / name for name in ("a.json", "a.link", "a.mp4", "sub/b")]
    assert sorted(listed) == wanted
    assert listed[tmp_path / "a.json"].st_size == 6
    for pattern, name in ((r"a\.mp4", "a.link"), ("x", "a.link")):
        with pytest.raises(files.ForeignEntryError, match="a link or another kind of file") as raised:
            files.list_files(tmp_path, names, re.compile(pattern))
        assert (raised.value.errno, raised.value.filename) == (errno.EEXIST, str(tmp_path / name))
    (tmp_path / "a.link").unlink()
    (tmp_path / "none").symlink_to(tmp_path / "sub")
    with pytest.raises(files.ForeignEntryError, match="not a folder") as raised:
        files.list_files(tmp_path, names, re.compile("x"))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOTDIR, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        files.list_files(tmp_path / "absent", names, re.compile("x"))
    for number in (1, 2):
        assert files.free_name(tmp_path / "sub", ".old-") == tmp_path / f"sub.old-{number}"
        (tmp_path / f"sub.old-{number}").symlink_to("nowhere")
