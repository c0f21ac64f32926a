import os
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.errors import OutputError
from hallo3.speech import array_file
from hallo3.speech.array_file import ArrayFile, write_array_file
from hallo3.storage.files import TEMPORARY_SUFFIX

ROWS = torch.arange(40, dtype=torch.float32).reshape(10, 4)


@pytest.fixture
def file(tmp_path: Path) -> ArrayFile:
    return write_array_file(tmp_path / "deep" / "a.f32", ROWS.split(3), 4)


def test_rows_are_read_by_position(file: ArrayFile) -> None:
    assert (file.rows, file.width, file.is_whole()) == (10, 4, True)
    for start, stop in combinations_with_replacement(range(11), 2):
        assert torch.equal(file.read(start, stop), ROWS[start:stop])
    for outside in ((-1, 2), (0, 11), (5, 4)):
        with pytest.raises(IndexError):
            file.read(*outside)
    with pytest.raises(ValueError, match="a piece"):
        write_array_file(file.path.with_name("b.f32"), [ROWS], 5)
    assert list(file.path.parent.iterdir()) == [file.path]


def test_any_type_and_layout_is_written_as_float32(tmp_path: Path) -> None:
    for rows in (ROWS.double(), ROWS.T.contiguous().T, ROWS.bfloat16(), ROWS[:0]):
        file = write_array_file(tmp_path / "a.f32", [rows, rows[:0]], 4)
        assert file.is_whole()
        assert torch.equal(file.read(0, len(rows)), ROWS[: len(rows)])


@pytest.mark.parametrize("size", [0, 159, 161, None])
def test_another_size_is_an_error(file: ArrayFile, size: int | None) -> None:
    content = file.path.read_bytes() + b"more"
    file.remove()
    if size is not None:
        file.path.write_bytes(content[:size])
    assert not file.is_whole()
    if size != 161:
        state = "missing" if size is None else f"{size} bytes"
        with pytest.raises(OutputError, match=rf"a\.f32: {state}\n.*160 readable bytes, 10 rows of 4"):
            file.read(9, 10)


@pytest.mark.parametrize("place", [0, 80, 159, 160, 163])
def test_a_flipped_bit_is_noticed(file: ArrayFile, place: int) -> None:
    content = bytearray(file.path.read_bytes())
    content[place] ^= 1
    file.path.write_bytes(content)
    assert not file.is_whole()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interruption_keeps_the_previous_file(tmp_path: Path, error: type[BaseException]) -> None:
    def pieces() -> Iterator[Tensor]:
        yield ROWS + 1
        assert (tmp_path / ("a.f32" + TEMPORARY_SUFFIX)).exists()
        raise error

    for before in (False, True):
        if before:
            write_array_file(tmp_path / "a.f32", [ROWS], 4)
        with pytest.raises(error):
            write_array_file(tmp_path / "a.f32", pieces(), 4)
        assert [path.name for path in tmp_path.iterdir()] == ["a.f32"] * before
    assert torch.equal(ArrayFile(tmp_path / "a.f32", 10, 4).read(0, 10), ROWS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("rows", [1, 100000])
def test_a_full_disk_is_an_error(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "create_file", lambda _: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OutputError, match="free some space"):
        write_array_file(tmp_path / "a.f32", [torch.zeros(rows, 4)], 4)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a.f32" / "inside").mkdir(parents=True)
    for path, fix in ((tmp_path / "file" / "a.f32", "choose another"), (tmp_path / "a.f32", "in the way")):
        with pytest.raises(OutputError, match=fix):
            write_array_file(path, [ROWS], 4)
