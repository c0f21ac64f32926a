from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import Tensor

from hallo3.geometry import PixelBox, VideoShape
from hallo3.media import portrait_preview
from hallo3.media.canvas import fit
from hallo3.media.framing import Crop, face_box, mask_extent, plan_crop
from hallo3.media.image import read_picture
from hallo3.media.paste_back import make_paste_back
from hallo3.media.portrait_preview import ACCENT, MAX_ASPECT, PALE, PREVIEW_SIDE, draw_portrait_preview
from support.own_process import ON_LINUX, measure_growth, run_alone

SHAPE = VideoShape(49, 320, 480)


def box_of_colour(preview: Tensor, colour: str) -> PixelBox | None:
    """The box around all that has a colour."""
    expected = torch.tensor(ImageColor.getrgb(colour)) / 255
    return mask_extent((preview - expected[:, None, None]).abs().amax(dim=0) < 1.5 / 255)


def test_what_is_not_used_is_dark() -> None:
    picture, crop = torch.full((3, 960, 480), 0.8), Crop(top=100, left=0, height=320, width=480)
    preview = draw_portrait_preview(picture, torch.ones(960, 480), SHAPE, crop)
    assert preview.shape == (3, 960, 480)
    assert float((preview[:, 104:416, 4:476] - 0.8).abs().max()) <= 0.005
    for outside in (preview[:, :98], preview[:, 422:]):
        assert float((outside - 0.8 * portrait_preview.UNUSED_BRIGHTNESS).abs().max()) <= 0.005


def test_bars_beside_a_square_crop_may_leave_the_portrait() -> None:
    picture, mask = torch.full((3, 640, 320), 0.9), torch.ones(640, 320)
    preview = draw_portrait_preview(picture, mask, SHAPE, Crop.whole(320, 320))
    assert preview.shape == (3, PREVIEW_SIDE, 720)  # 480 columns of canvas, of which 320 are portrait
    bars = preview[:, 20:460, :100]
    dark, light = min(portrait_preview.BAR_LEVELS), max(portrait_preview.BAR_LEVELS)
    assert dark - 0.01 < float(bars.max()) <= light + 0.01
    assert float(bars.std()) > 0.02
    assert float(preview[:, 20:460, 140:580].min()) > 0.85
    assert float(preview[:, 500:, :100].max()) < 0.1
    upright = draw_portrait_preview(picture, mask, VideoShape(49, 96, 64), Crop.whole(320, 320))
    assert upright.shape == (3, PREVIEW_SIDE, round(PREVIEW_SIDE * 320 / 720))


@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0])
def test_faces_have_boxes_and_the_chosen_one_its_colour(brightness: float) -> None:
    picture = torch.full((3, 480, 960), brightness)
    faces = [PixelBox(100, 100, 200, 220), PixelBox(400, 120, 520, 260), PixelBox(700, 100, 790, 210)]
    crop, mask = plan_crop(480, 960, faces[1], SHAPE), torch.zeros(480, 960)
    assert box_of_colour(draw_portrait_preview(picture, mask, SHAPE, crop, faces), ACCENT) is None
    preview = draw_portrait_preview(picture, mask, SHAPE, crop, faces, 1)
    assert box_of_colour(preview, ACCENT) == pytest.approx((400, 120 - 32, 520, 260), abs=1.5)  # its number
    mask[106:274, 388:532] = 1
    preview = draw_portrait_preview(picture, mask, SHAPE, crop, faces, 1)
    assert box_of_colour(preview, ACCENT) == pytest.approx((388, 88, 532, 274), abs=1.5)  # with the mask
    assert box_of_colour(preview[:, :, :224], PALE) == pytest.approx((100, 68, 200, 220), abs=1.5)
    for line in (preview[:, 150, 95:106], preview[:, 95:106, 170]):  # visible on any background
        assert float(line.max() - line.min()) > 0.7


def test_each_face_has_its_own_number() -> None:
    faces = [PixelBox(60 + 90 * n, 200, 130 + 90 * n, 290) for n in range(10)]
    black = torch.zeros(3, 480, 960)
    preview = draw_portrait_preview(black, black[0], SHAPE, Crop.whole(480, 960), faces)
    plates = [preview[:, 169:198, 60 + 90 * n : 104 + 90 * n] for n in range(10)]
    for index, plate in enumerate(plates):
        assert float(plate.std()) > 0.1
        assert all(float((plate - other).abs().max()) > 0.3 for other in plates[:index])


@pytest.mark.parametrize("chosen", [None, 0, 1, 2, 3])
def test_boxes_at_and_beyond_the_edges(chosen: int | None) -> None:
    edges = (-50, -40, 30, 40), (90, 60, 400, 300), (40, 40, 40.2, 40.1), (500, 500, 600, 600)
    faces = [PixelBox(*each) for each in edges]
    picture, mask = torch.rand(3, 96, 128), torch.zeros(96, 128)
    preview = draw_portrait_preview(picture, mask, SHAPE, Crop.whole(96, 128), faces, chosen)
    assert preview.shape == (3, 720, 960)
    assert 0 <= float(preview.min()) <= float(preview.max()) <= 1


@pytest.mark.parametrize(("height", "width"), [(16, 4096), (4096, 16), (64, 64), (64, 8192)])
def test_of_a_strip_the_part_around_the_crop_is_shown(height: int, width: int) -> None:
    face = PixelBox(width * 0.8, height * 0.8, width * 0.8 + 10, height * 0.8 + 10)
    crop = plan_crop(height, width, face, SHAPE, "face")
    picture, used = torch.zeros(3, height, width), crop.height * crop.width
    crop.of(picture).fill_(1)
    preview = draw_portrait_preview(picture, torch.zeros(height, width), SHAPE, crop, [face], 0)
    assert PREVIEW_SIDE // MAX_ASPECT <= min(preview.shape[1:]) <= max(preview.shape[1:]) == PREVIEW_SIDE
    area = min(height, MAX_ASPECT * width) * min(width, MAX_ASPECT * height)
    assert float((preview > 0.99).all(dim=0).float().mean()) > 0.5 * used / (area + used)


def measure_memory(path: str) -> float:
    """MB to prepare a portrait, beside itself."""
    shape = VideoShape(49, 480, 720)
    fit(torch.rand(3, 900, 800), shape, mask=torch.ones(900, 800))
    with measure_growth() as growth:
        picture = read_picture(Path(path))
        mask = torch.zeros(picture.shape[1:])
        mask[1000:3000, 2000:4000] = 1
        for framing in ("face", "original"):
            face = face_box(mask)
            crop = plan_crop(*picture.shape[1:], face, shape, framing)
            fit(crop.of(picture), shape)
            fit(crop.of(picture), shape, mask=crop.of(mask))
            make_paste_back(picture, crop, shape)
            draw_portrait_preview(picture, mask, shape, crop, [face], 0)
    return growth[0] - picture.numel() * 4 / 2**20


@ON_LINUX
def test_a_large_portrait_takes_a_quarter_gigabyte_beside_itself(tmp_path: Path) -> None:
    path, ramp = tmp_path / "huge.png", (np.arange(4096) // 17).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[:, None], (4096, 4096, 3))).save(path, compress_level=1)
    assert run_alone("media.test_portrait_preview", f"measure_memory({str(path)!r})") < 256
