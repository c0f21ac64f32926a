"""Pictures as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hallo3.errors import PortraitError
from hallo3.media.canvas import fit
from hallo3.media.picture import check_picture, read_picture
from hallo3.shapes import VideoShape

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
