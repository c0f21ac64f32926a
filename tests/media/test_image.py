"""Picture files as people have them, and the catalogue of hostile ones (I06, I10, I18, M01, M07)."""

import io
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from hallo3.errors import PortraitError
from hallo3.media.image import check_picture, read_picture
from support.own_process import ON_LINUX, measure_growth, run_alone

CORNERS = np.zeros((80, 100, 3), np.uint8)
CORNERS[:40, :50, 0] = CORNERS[:40, 50:, 1] = CORNERS[40:, :50, 2] = 255
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))


def save(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def encode(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, packed: bytes) -> bytes:
    """A PNG file of compressed rows, each with a filter byte in front."""
    header, content = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0), b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def test_pixels_are_read_as_they_are_and_turned_as_exif_says(tmp_path: Path) -> None:
    expected = torch.from_numpy(CORNERS).permute(2, 0, 1)
    for name in ("a.png", "a.bmp", "a.webp", "ünï cödé 人.png"):
        picture = read_picture(save(tmp_path, Image.fromarray(CORNERS), name, lossless=True))
        assert torch.equal((picture * 255).byte(), expected), name
    undo, exif = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}, Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112], rotated = orientation, Image.fromarray(CORNERS)
        if orientation > 1:
            rotated = rotated.transpose(Image.Transpose(undo[orientation]))
        picture = read_picture(save(tmp_path, rotated, "rotated.png", exif=exif))
        assert torch.equal((picture * 255).byte(), expected), orientation


@pytest.mark.parametrize("alpha", [0, 1, 127, 254, 255])
def test_transparency_becomes_white(tmp_path: Path, alpha: int) -> None:
    rgba = np.full((64, 64, 4), (200, 100, 0, alpha), np.uint8)
    picture = read_picture(save(tmp_path, Image.fromarray(rgba), "glass.png"))
    expected = torch.tensor([200, 100, 0]) / 255 * alpha / 255 + 1 - alpha / 255
    assert float((picture[:, 0, 0] - expected).abs().max()) < 1 / 255


IMAGES = {
    "I;16": Image.fromarray(RAMP.astype(np.uint16) * 257),
    "I": Image.fromarray(RAMP.astype(np.int32) * 257),
    "F": Image.fromarray(RAMP.astype(np.float32) / 255),
    **{mode: Image.fromarray(RAMP).convert(mode) for mode in ("L", "LA", "P", "CMYK", "1")},
}


@pytest.mark.parametrize("mode", IMAGES)
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = read_picture(save(tmp_path, IMAGES[mode], "mode.tiff"))
    assert picture.shape == (3, 64, 64)
    if mode != "1":
        assert (picture[0, 0] - torch.linspace(0, 1, 64)).abs().max() < 0.05


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_per_channel_are_scaled(tmp_path: Path, colour: int, channels: int) -> None:
    """Files that Pillow cannot write."""
    pixels = np.repeat(np.tile(np.linspace(0, 65535, 64), (64, 1))[:, :, None], channels, axis=2)
    if channels in (2, 4):
        pixels[:, :, -1] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "deep.png").write_bytes(png(64, 64, 16, colour, zlib.compress(rows)))
    picture = read_picture(tmp_path / "deep.png")
    assert picture.shape == (3, 64, 64)
    assert float((picture - torch.linspace(0, 1, 64)).abs().max()) <= 1.01 / 255


def test_i18_of_an_animation_the_first_frame_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue", "green")]
    for name in ("a.webp", "a.gif", "a.png"):
        path = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_picture(path)[:, 40, 40].tolist() == [1, 0, 0]


def test_i18_a_truncated_picture_is_refused_or_complete(tmp_path: Path) -> None:
    """Nothing is filled with grey."""
    noise, results = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8), list[bool]()
    for format in ("png", "jpeg", "webp", "bmp"):
        content, path = encode(Image.fromarray(noise), format), tmp_path / f"cut.{format}"
        path.write_bytes(content)
        whole = read_picture(path)
        for size in range(0, len(content), len(content) // 40):
            path.write_bytes(content[:size])
            try:
                results.append(torch.equal(read_picture(path), whole))
            except PortraitError as error:
                results.append(path.name in str(error))
    assert len(results) > 160
    assert all(results)


PHOTOSHOP = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 80, 80, 8, 3) + bytes(12) + bytes(2) + bytes(3 * 80 * 80)
FOREIGN = {
    "empty": b"",
    "text": b"not a picture",
    "web page": b"<html></html>",
    "M07-EPS": encode(Image.new("RGB", (80, 80)), "EPS"),
    "M07-PSD": PHOTOSHOP,
    "M07-SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="80"/>',
    "M07-PDF": b"%PDF-1.7\n" + bytes(200),
    "M07-ICO": b"\x00\x00\x01\x00" + bytes(200),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whatever their name; no program is started."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", program := Mock())
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        path.write_bytes(FOREIGN[kind])
        with pytest.raises(PortraitError, match=rf"cannot be read(.|\n)*{path.name}"):
            read_picture(path)
    assert not program.called


def test_a_missing_file_a_folder_and_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(PortraitError, match="no file"):
            read_picture(path)
    values = np.full((64, 64), 0.5, np.float32)
    values[3, 5:7] = np.nan, np.inf
    with pytest.raises(PortraitError, match="not finite"):
        read_picture(save(tmp_path, Image.fromarray(values), "holes.tiff"))


def measure_refusals(folder: str) -> list[float]:
    """MB to refuse two bombs by their headers."""
    growths: list[float] = []
    for side in (12_000, 16_384):
        with measure_growth() as growth, pytest.raises(PortraitError, match="too large") as refusal:
            read_picture(Path(folder, f"{side}.png"))
        assert str(side * side) in refusal.value.found
        growths += growth
    return growths


@ON_LINUX
def test_m01_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """At up to twice as many pixels as are allowed, Pillow only warns."""
    for side in (12_000, 16_384):
        packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
        packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        (tmp_path / f"{side}.png").write_bytes(png(side, side, 8, 2, packed))
        assert (tmp_path / f"{side}.png").stat().st_size < 1_000_000
    assert max(run_alone("media.test_image", f"measure_refusals({str(tmp_path)!r})")) <= 50


def test_i06_i10_pictures_that_are_small_out_of_range_or_of_another_layout_are_refused() -> None:
    for size in ((1, 1), (63, 64), (16, 4096), (4096, 16)):
        with pytest.raises(PortraitError, match=rf"{size[1]} x {size[0]} px(.|\n)*at least 64 px per side"):
            check_picture(torch.zeros(3, *size))
    check_picture(torch.zeros(3, 64, 64))
    for value in (float("nan"), float("inf"), float("-inf"), -0.5, 255.0):
        picture = torch.rand(3, 80, 100)
        picture[1, 30, 71] = picture[2, 60, 5] = value
        where = "" if abs(value) < float("inf") else r"at x 71, y 30(.|\n)*"
        with pytest.raises(PortraitError, match=f"{where}finite values from 0 to 1"):
            check_picture(picture)
    for shape in ((64, 64, 3), (1, 64, 64), (3, 64), (1, 3, 64, 64)):
        with pytest.raises(PortraitError, match="channels first"):
            check_picture(torch.zeros(shape))
