"""Picture files as people and phones have them, and the hostile ones (I06, I10, I18, M01, M07)."""

import io
import os
import struct
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, PngImagePlugin, TiffImagePlugin

from hallo3.errors import PortraitError
from hallo3.media import image, other_pictures
from hallo3.media.image import check_picture, read_picture, read_picture_file
from support.messages import expect_message
from support.own_process import ON_LINUX, Missing, measure_growth, run_alone

CORNERS = np.zeros((80, 100, 3), np.uint8)
CORNERS[:40, :50, 0] = CORNERS[:40, 50:, 1] = CORNERS[40:, :50, 2] = 255
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))


def save(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
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
        with expect_message(f"{name} holds several pictures.*the first is used"):
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
RAW = TiffImagePlugin.ImageFileDirectory_v2()
RAW[50706] = b"\1\4\0\0"
FOREIGN = {
    "an empty file": b"",
    "0 bytes|13 bytes of an unknown": b"not a picture",
    "a web page": b"<html></html>",
    "a PostScript drawing": encode(Image.new("RGB", (80, 80)), "EPS"),
    "a Photoshop document": PHOTOSHOP,
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="80"/>',
    "a PDF document": b"%PDF-1.7\n" + bytes(200),
    "an icon": b"\x00\x00\x01\x00" + bytes(200),
    "a JPEG 2000 picture": encode(Image.new("RGB", (80, 80)), "JPEG2000"),
    "a raw photo": encode(Image.new("RGB", (80, 80)), "TIFF", tiffinfo=RAW),
    "a video": b"\0\0\0\x18ftypmp42" + bytes(99),
    "a sound recording": b"RIFF\x99\0\0\0WAVEfmt " + bytes(99),
    "an archive": b"PK\3\4" + bytes(99),
    "an HEIC photo, as iPhones make(.|\n)*pip install pillow-heif": b"\0\0\0\x18ftypheic" + bytes(99),
    "a JPEG XL picture(.|\n)*pillow-jxl-plugin": b"\xff\x0a" + bytes(99),
    "a JPEG XL picture": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whatever their name, with what to do; no program is started."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", program := Mock())
    monkeypatch.setattr(sys, "meta_path", [Missing("pillow_heif", "pillow_jxl"), *sys.meta_path])
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        path.write_bytes(FOREIGN[what])
        with pytest.raises(PortraitError, match=rf"cannot be read(.|\n)*{path.name}, ({what})"):
            read_picture(path)
    assert not program.called


def test_an_heic_photo_is_read_by_the_extra_without_registering_it(tmp_path: Path, monkeypatch: Any) -> None:
    """The library's class opens it; a stand-in here, unless it is installed."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + encode(Image.fromarray(CORNERS), "PNG"))

    def open_photo(file: Any, name: str) -> Image.Image:
        assert name == str(path)
        return PngImagePlugin.PngImageFile(io.BytesIO(file.read()[12:]))

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(HeifImageFile=open_photo))
    before = dict(Image.OPEN)
    assert torch.equal((read_picture(path) * 255).byte(), torch.from_numpy(CORNERS).permute(2, 0, 1))
    assert before == Image.OPEN


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 77), (256, 320), (1920, 1080), (8200, 9)])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(width: int, height: int, tmp_path: Path) -> None:
    def code(side: int) -> str:
        count = next(n for n in (9, 13, 18, 30) if side <= 1 << n)
        return f"{side - 1:0{count}b}"[::-1].join((f"{(9, 13, 18, 30).index(count):02b}"[::-1], ""))

    small = width % 8 == height % 8 == 0 and max(width, height) <= 256
    bits = "1" + f"{height // 8 - 1:05b}"[::-1] if small else "0" + code(height)
    bits += "000" + (f"{width // 8 - 1:05b}"[::-1] if small else code(width))
    stream = b"\xff\x0a" + int(bits[::-1], 2).to_bytes(12, "little")
    box = (
        b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I", 14) + b"ftypjxl \0\0" + struct.pack(">I", 0) + b"jxlc"
    )
    for content in (stream, box + stream):
        (tmp_path / "a.jxl").write_bytes(content)
        with (tmp_path / "a.jxl").open("rb") as file:
            assert other_pictures._read_jxl_size(file) == (width, height)


NO_FILE = {
    "absent.png": "no file (.|\n)*check the path",
    "": "the folder (.|\n)*one picture",
    "https://example.org/a.png": "an address, https://example.org/a.png(.|\n)*save the picture",
    "-": "a pipe(.|\n)*save the picture",
    "fifo": "a pipe(.|\n)*save the picture",
    "/dev/null": "a pipe or a device(.|\n)*save the picture",
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("name", NO_FILE)
def test_what_is_no_file_is_named_without_waiting_for_it(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PortraitError, match=f"cannot be opened(.|\n)*{NO_FILE[name]}"):
        read_picture(Path(name) if name[:1] in ("-", "h") else tmp_path / name)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = np.full((64, 64), 0.5, np.float32)
    values[3, 5:7] = np.nan, np.inf
    with pytest.raises(PortraitError, match="not finite"):
        read_picture(save(tmp_path, Image.fromarray(values), "holes.tiff"))


def measure_memory(folder: str) -> list[float]:
    """MB to read a photo of 108 megapixels, and to refuse two bombs by their headers."""
    growths: list[float] = []
    with measure_growth() as growth:
        assert read_picture(Path(folder, "a.jpg")).shape == (3, 4500, 6000)
    growths += growth
    for side in (12_000, 16_384):
        with measure_growth() as growth, pytest.raises(PortraitError, match="too large") as refusal:
            read_picture(Path(folder, f"{side}.png"))
        assert str(side * side) in refusal.value.found
        growths += growth
    return growths


@ON_LINUX
def test_m01_a_large_photo_takes_half_a_gigabyte_and_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """Also between the limit and what is read of a file with as many bytes as a photo."""
    for side in (12_000, 16_384):
        packer, row = zlib.compressobj(), bytes(1 + side)
        packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        (tmp_path / f"{side}.png").write_bytes(png(side, side, 8, 0, packed))
        assert (tmp_path / f"{side}.png").stat().st_size < 1_000_000
    save(tmp_path, Image.new("L", (12_000, 9_000)), "a.jpg", quality=50)
    reading, *refusing = run_alone("media.test_image", f"measure_memory({str(tmp_path)!r})")
    assert max(refusing) <= 50
    assert reading <= 500


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "P", "L", "RGBA"])
def test_many_pixels_are_read_reduced(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own limits: the process' own is left alone, and does not count."""
    monkeypatch.setattr(image, "FULL_PIXELS", 200 * 300 - 1)
    monkeypatch.setattr(image, "REDUCED_PIXELS", 200 * 300 // 4)
    monkeypatch.setattr(image, "MAX_PIXELS_PER_BYTE", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    stored = Image.fromarray(CORNERS).resize((300, 200), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6
    if len(format) < 3 or format == "RGBA":
        stored, format = stored.convert(format), "PNG"
    (tmp_path / "a").write_bytes(encode(stored, format, exif=exif))
    with expect_message("a has (300 x 200|200 x 300) px: it is read at 100 x 150"):
        found = read_picture_file(tmp_path / "a")
    wanted = np.array(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270).resize((100, 150)))
    assert found.changes[0] == "a size of 100 x 150 px"
    assert np.abs(found.pixels.permute(1, 2, 0).numpy() * 255 - wanted)[5:-5, 5:-5].mean() < 4
    assert Image.MAX_IMAGE_PIXELS == 40_000
    monkeypatch.setattr(image, "MAX_PIXELS", 59_999)
    with pytest.raises(PortraitError, match="60000 pixels"):
        read_picture(tmp_path / "a")


GREY = {  # tags of a TIFF, largest value in the file, share of white that it becomes
    "of 16 bits": ({}, 65535, 1.0),
    "of 12 bits by its tag": ({341: 4095}, 4095, 1.0),
    "of nearly 12 bits": ({281: 4080}, 4080, 4080 / 4095),
    "of 10 bits": ({341: 1023}, 1000, 1000 / 1023),
    "of 12 bits, without a word": ({}, 4095, 4095 / 65535),
    "with a tag that its values exceed": ({341: 4095}, 5000, 5000 / 65535),
}


@pytest.mark.parametrize("kind", GREY)
def test_grey_of_fewer_bits_is_scaled_or_told(kind: str, tmp_path: Path) -> None:
    tags, value, share = GREY[kind]
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, number in tags.items():
        info[tag] = number
    dark = Image.fromarray(np.full((64, 64), value, np.uint16))
    path = save(tmp_path, dark, "a.tiff", tiffinfo=info)
    with (
        expect_message("nearly black" if share < 0.07 else "") if value < 5000 and not tags else nullcontext()
    ):
        found = read_picture(path)
    assert float(found.max()) == pytest.approx(share, abs=0.6 / 255)


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
