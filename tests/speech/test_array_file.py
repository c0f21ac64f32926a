"""A matrix in a file: what was written is read, and what is damaged is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.errors import OutputError
from hallo3.speech.array_file import ArrayFile, write_array_file
from hallo3.storage.atomic import TEMPORARY_SUFFIX

ROWS = torch.arange(40, dtype=torch.float32).reshape(10, 4)


@pytest.fixture
def spool(tmp_path: Path) -> ArrayFile:
    return write_array_file(tmp_path / "deep" / "a.f32", ROWS.split(3), 4)


def test_rows_are_read_by_position(spool: ArrayFile) -> None:
    assert (spool.rows, spool.width, spool.complete) == (10, 4, True)
    for start in range(11):
        for stop in range(start, 11):
            assert torch.equal(spool.read(start, stop), ROWS[start:stop])
    assert list(spool.path.parent.iterdir()) == [spool.path]
    ArrayFile(spool.path, 10, 4).check()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 11), (5, 4)])
def test_rows_that_do_not_exist_are_a_mistake(spool: ArrayFile, start: int, stop: int) -> None:
    with pytest.raises(IndexError):
        spool.read(start, stop)


def test_what_is_read_can_be_changed_without_changing_the_file(spool: ArrayFile) -> None:
    spool.read(0, 10).zero_()
    assert torch.equal(spool.read(0, 10), ROWS)


def test_other_types_and_orders_are_written_as_they_read(tmp_path: Path) -> None:
    for rows in (ROWS.double(), ROWS.T.contiguous().T, ROWS.bfloat16()):
        assert torch.equal(write_array_file(tmp_path / "a.f32", [rows, rows[:0]], 4).read(0, 10), ROWS)


def test_no_rows_are_a_spool_too(tmp_path: Path) -> None:
    spool = write_array_file(tmp_path / "a.f32", [], 4)
    assert spool.complete
    assert spool.read(0, 0).shape == (0, 4)


@pytest.mark.parametrize("size", [0, 1, 159, 161, 144])
def test_another_size_is_told(spool: ArrayFile, size: int) -> None:
    content = spool.path.read_bytes() + b"more"
    spool.path.write_bytes(content[:size])
    assert not spool.complete
    with pytest.raises(OutputError, match=rf"{size} bytes\n.*160 readable bytes, 10 rows of 4"):
        spool.check()
    if size < 160:
        with pytest.raises(OutputError, match=r"a\.f32"):
            spool.read(9, 10)


def test_a_vanished_file_is_told(spool: ArrayFile) -> None:
    spool.remove()
    spool.remove()
    for question in (spool.check, lambda: spool.read(0, 1)):
        with pytest.raises(OutputError, match="missing"):
            question()
    spool.path.mkdir()
    with pytest.raises(OutputError, match="missing"):
        spool.read(0, 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stop_leaves_nothing_half(tmp_path: Path, error: type[BaseException]) -> None:
    def pieces() -> Iterator[Tensor]:
        yield ROWS
        assert (tmp_path / ("a.f32" + TEMPORARY_SUFFIX)).exists()
        raise error

    for earlier in (False, True):
        if earlier:
            write_array_file(tmp_path / "a.f32", [ROWS], 4)
        with pytest.raises(error):
            write_array_file(tmp_path / "a.f32", pieces(), 4)
        assert [path.name for path in tmp_path.iterdir()] == ["a.f32"] * earlier
    assert torch.equal(ArrayFile(tmp_path / "a.f32", 10, 4).read(0, 10), ROWS)


def test_a_piece_of_another_width_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a piece"):
        write_array_file(tmp_path / "a.f32", [ROWS], 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("rows", [1, 100000])
def test_a_full_disk_is_told(tmp_path: Path, rows: int) -> None:
    (tmp_path / ("a.f32" + TEMPORARY_SUFFIX)).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="free some space"):
        write_array_file(tmp_path / "a.f32", [torch.zeros(rows, 4)], 4)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another"):
        write_array_file(tmp_path / "file" / "a.f32", [ROWS], 4)
    (tmp_path / "a.f32").mkdir()
    (tmp_path / "a.f32" / "held").touch()
    with pytest.raises(OutputError, match="in the way"):
        write_array_file(tmp_path / "a.f32", [ROWS], 4)
