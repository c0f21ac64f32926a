"""Pictures of every kind, row by row of the catalogue of bad inputs (I06, I10, I18, M01, M07); what other
files test of them is not here again."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from hallo3.errors import PortraitError
from hallo3.media.image import check_picture, read_picture


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf")], ids=lambda value: f"I06-{value}"
)
def test_the_first_pixel_that_is_no_number_is_located(value: float) -> None:
    picture = torch.rand(3, 80, 100)
    picture[1, 30, 71] = picture[2, 60, 5] = value
    with pytest.raises(PortraitError, match="at x 71, y 30"):
        check_picture(picture)


@pytest.mark.parametrize(
    "size", [(16, 4096), (4096, 16), (63, 64)], ids=lambda size: f"I10-{size[0]}x{size[1]}"
)
def test_strips_are_refused_with_the_least_side(size: tuple[int, int]) -> None:
    with pytest.raises(PortraitError, match=rf"{size[1]} x {size[0]} px(.|\n)*at least 64 px per side"):
        check_picture(torch.zeros(3, *size))
    check_picture(torch.zeros(3, max(64, size[0]), max(64, size[1])))


def test_i18_of_an_animation_the_first_frame_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue", "green")]
    for name in ("a.webp", "a.gif", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert read_picture(tmp_path / name)[:, 40, 40].tolist() == [1, 0, 0]


def test_i18_a_picture_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    """Nothing is filled up with grey."""
    noise, told = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8), list[bool]()
    for kind in ("png", "jpeg", "webp", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        content, path = buffer.getvalue(), tmp_path / f"cut.{kind}"
        path.write_bytes(content)
        whole = read_picture(path)
        for size in range(0, len(content), len(content) // 40):
            path.write_bytes(content[:size])
            try:
                read = read_picture(path)
            except PortraitError as error:
                told.append(path.name in str(error))
            else:
                told.append(torch.equal(read, whole))
    assert len(told) > 160
    assert all(told)


def bomb(path: Path, side: int) -> Path:
    """A PNG of a side x side black pixels, which takes up hardly any room."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


WATCHED = """
import resource, sys
from pathlib import Path
from hallo3.errors import PortraitError
from hallo3.media.image import read_picture
read_picture(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_picture(Path(sys.argv[2]))
except PortraitError as error:
    print(error.headline, error.found, sep="|", end="|")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("side", [16_384, 20_000], ids=lambda side: f"M01-{side}")
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    pytest.importorskip("resource", reason="this system does not say how much memory a process had")
    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", WATCHED, tmp_path / "small.png", bomb(tmp_path / "bomb.png", side)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    headline, found, grown = made.stdout.split("|")
    assert headline == "The portrait is too large."
    assert str(side * side) in found
    assert float(grown) <= 50
    assert (tmp_path / "bomb.png").stat().st_size < 2_000_000


def postscript() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 80)).save(buffer, "EPS")
    return buffer.getvalue()


PHOTOSHOP = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 80, 80, 8, 3) + bytes(12) + bytes(2) + bytes(3 * 80 * 80)
FOREIGN = {
    "M07-EPS": postscript(),
    "M07-PSD": PHOTOSHOP,
    "M07-SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="80"/>',
    "M07-PDF": b"%PDF-1.7\n" + bytes(200),
    "M07-ICO": b"\x00\x00\x01\x00" + bytes(200),
}


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_kinds_of_files_are_refused_whatever_they_are_called(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    name: str,
) -> None:
    def started(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a program is started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PortraitError, match=rf"cannot be read(.|\n)*{name}"):
        read_picture(tmp_path / name)
