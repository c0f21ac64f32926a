"""Pictures as people have them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hallo3.errors import PortraitError
from hallo3.geometry import VideoShape
from hallo3.media.canvas import fit
from hallo3.media.image import check_picture, read_picture

CORNERS = np.zeros((80, 100, 3), np.uint8)
CORNERS[:40, :50] = (255, 0, 0)
CORNERS[:40, 50:] = (0, 255, 0)
CORNERS[40:, :50] = (0, 0, 255)


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "ünï cödé 人.png"])
def test_a_picture_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    picture = read_picture(saved(tmp_path, Image.fromarray(CORNERS), name, **options))
    assert torch.equal((picture * 255).byte(), torch.from_numpy(CORNERS).permute(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(tmp_path: Path, orientation: int) -> None:
    turned = Image.fromarray(CORNERS)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    if orientation > 1:
        turned = turned.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(saved(tmp_path, turned, "turned.png", exif=exif))
    assert torch.equal((picture * 255).byte(), torch.from_numpy(CORNERS).permute(2, 0, 1))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 32:] = (255, 0, 0, 255)
    picture = read_picture(saved(tmp_path, Image.fromarray(rgba), "clear.png"))
    assert picture[:, 0, 0].tolist() == [1, 1, 1]
    assert picture[:, 0, 63].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "I;16", "I", "F"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    image = Image.fromarray(ramp)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(ramp.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(ramp.astype(np.float32) / 255)
    else:
        image = image.convert(mode)
    picture = read_picture(saved(tmp_path, image, "mode.tiff"))
    assert picture.shape == (3, 64, 64)
    if mode != "1":
        assert (picture[0, 0] - torch.linspace(0, 1, 64)).abs().max() < 0.05


def png(pixels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write: [h, w, C] uint16."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_a_channel_are_scaled_not_cut(tmp_path: Path, colour: int, channels: int) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    pixels = np.repeat(np.tile(ramp, (64, 1))[:, :, None], channels, axis=2)
    if channels in (2, 4):
        pixels[:, :, -1] = 65535
    (tmp_path / "deep.png").write_bytes(png(pixels, colour))
    picture = read_picture(tmp_path / "deep.png")
    assert picture.shape == (3, 64, 64)
    assert float((picture - torch.linspace(0, 1, 64)).abs().max()) <= 1.01 / 255


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_of_numbers_that_are_none_is_refused(tmp_path: Path, value: float) -> None:
    values = np.full((64, 64), 0.5, np.float32)
    values[3, 5] = value
    with pytest.raises(PortraitError, match="not finite"):
        read_picture(saved(tmp_path, Image.fromarray(values), "holes.tiff"))


@pytest.mark.parametrize("alpha", [0, 1, 127, 254, 255])
def test_half_transparent_is_half_white(tmp_path: Path, alpha: int) -> None:
    rgba = np.full((64, 64, 4), (200, 100, 0, alpha), np.uint8)
    picture = read_picture(saved(tmp_path, Image.fromarray(rgba), "glass.png"))
    wanted = torch.tensor([200, 100, 0]) / 255 * alpha / 255 + 1 - alpha / 255
    assert float((picture[:, 0, 0] - wanted).abs().max()) < 1 / 255


@pytest.mark.parametrize(("size", "message"), [((1, 1), "1 x 1"), ((63, 500), "63 x 500")])
def test_small_pictures_are_refused(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    with pytest.raises(PortraitError, match=message):
        read_picture(saved(tmp_path, Image.new("RGB", size), "small.png"))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, Image.fromarray(CORNERS), "whole.png").read_bytes()
    faults = {
        "empty.png": b"",
        "text.png": b"not a picture",
        "cut.png": whole[: len(whole) // 2],
        "page.jpg": b"<html></html>",
    }
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PortraitError, match=name):
            read_picture(tmp_path / name)
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(PortraitError, match="no file"):
            read_picture(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(CORNERS), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PortraitError, match="too large"):
        read_picture(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 255.0])
def test_values_out_of_range_are_refused(value: float) -> None:
    picture = torch.zeros(3, 64, 64)
    picture[1, 2, 3] = value
    with pytest.raises(PortraitError, match="finite values from 0 to 1"):
        check_picture(picture)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64), (3, 64), (1, 3, 64, 64)])
def test_other_layouts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PortraitError, match="channels first"):
        check_picture(torch.zeros(shape))


@pytest.mark.parametrize("canvas", [(64, 96), (96, 64), (32, 32)])
@pytest.mark.parametrize("picture", [(80, 80), (64, 200), (200, 64), (64, 96), (4096, 64)])
def test_any_picture_fits_any_canvas(canvas: tuple[int, int], picture: tuple[int, int]) -> None:
    fitted = fit(torch.full((3, *picture), 0.75), VideoShape.checked(17, *canvas))
    assert fitted.pixels.shape == (1, 3, 1, *canvas)
    shown = fitted.uncrop(fitted.pixels)
    assert torch.allclose(shown, torch.tensor(0.5), atol=1e-5)
    assert shown.shape[-2:] == (fitted.height, fitted.width)
    square = picture[0] == picture[1]
    assert (fitted.height == fitted.width == min(canvas)) if square else shown.shape[-2:] == canvas
    assert square or bool((fitted.pixels > 0).all())


@pytest.mark.parametrize("size", [(300, 300), (700, 450), (450, 700), (130, 64), (257, 1000)])
def test_a_mask_is_applied_band_by_band_to_the_same_bits(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    picture = torch.rand(*size, 3, generator=draw).permute(2, 0, 1)
    mask = (torch.rand(size, generator=draw) > 0.5).float()
    for shape in (VideoShape(17, 64, 96), VideoShape(17, 240, 160)):
        assert torch.equal(fit(picture, shape, mask=mask).pixels, fit(picture * mask, shape).pixels)


@pytest.mark.parametrize("size", [(64, 4096), (4096, 64)])
def test_only_the_middle_of_a_strip_is_scaled(size: tuple[int, int]) -> None:
    """Rows and columns that say where they are: the canvas shows the middle, as it would without a cut."""
    long = max(size)
    ramp = (torch.arange(long) + 0.5) / long
    picture = (ramp if size[1] == long else ramp[:, None]).expand(3, *size)
    shape = VideoShape(17, 64, 96)
    shown = (fit(picture, shape).pixels[0, 0, 0] + 1) / 2 * long
    along = shown.mean(dim=0 if size[1] == long else 1)
    scale = 64 / shape.height if size[1] == long else 64 / shape.width
    middles = long / 2 + scale * (torch.arange(len(along)) + 0.5 - len(along) / 2)
    assert float((along - middles).abs().max()) < 1
