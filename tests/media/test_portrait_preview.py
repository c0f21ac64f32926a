"""The picture that tells what will be used of a portrait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hallo3.geometry import PixelBox, VideoShape
from hallo3.media.canvas import fit
from hallo3.media.framing import Crop, plan_crop
from hallo3.media.portrait_preview import BARS, BOX, CUT_OFF, PALE, SIDE, STRIP, draw_portrait_preview

SHAPE = VideoShape(49, 320, 480)


def test_what_is_cut_off_is_dark_and_what_stays_is_the_canvas() -> None:
    picture = torch.rand(3, 960, 480, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    shown = draw_portrait_preview(picture, torch.zeros(960, 480), SHAPE)
    assert shown.shape == (3, 960, 480)
    torch.testing.assert_close(shown[:, :320], picture[:, :320] * CUT_OFF)
    canvas = (fit(picture, SHAPE).pixels[0, :, 0] + 1) / 2
    torch.testing.assert_close(shown[:, 320:640], canvas.clamp(0, 1), atol=0.02, rtol=0)


def test_a_square_picture_stands_between_bars() -> None:
    picture = torch.ones(3, 80, 80)
    shown = draw_portrait_preview(picture, torch.zeros(80, 80), SHAPE)
    assert shown.shape == (3, 320, 480)
    assert float(shown[:, :, :80].max()) < 0.3
    torch.testing.assert_close(shown[:, :, 80:400], torch.ones(3, 320, 320))
    assert draw_portrait_preview(picture, torch.zeros(80, 80), VideoShape(49, 64, 96)).shape == (3, 448, 672)


def test_the_box_is_round_the_face() -> None:
    mask = torch.zeros(320, 480)
    mask[20:40, 30:60] = 1
    shown = draw_portrait_preview(torch.zeros(3, 320, 480), mask, SHAPE)
    lit = (shown - torch.tensor(BOX)[:, None, None]).abs().sum(dim=0) < 1e-6
    assert (int(lit.nonzero()[:, 0].min()), int(lit.nonzero()[:, 0].max())) == (20, 39)
    assert (int(lit.nonzero()[:, 1].min()), int(lit.nonzero()[:, 1].max())) == (30, 59)
    assert not bool(lit[25:35, 35:55].any())


def with_colour(shown: Tensor, colour: tuple[float, ...]) -> PixelBox | None:
    """The box round all that has a colour."""
    alike = (shown - torch.tensor(colour)[:, None, None]).abs().amax(dim=0) < 1.5 / 255
    if not bool(alike.any()):
        return None
    rows, columns = alike.any(dim=1).nonzero(), alike.any(dim=0).nonzero()
    return PixelBox(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def near(found: PixelBox | None, wanted: PixelBox, by: float = 1.5) -> bool:
    return found is not None and max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= by


def test_with_a_crop_the_whole_portrait_is_shown_and_what_is_not_used_is_dark() -> None:
    picture = torch.full((3, 960, 480), 0.8)
    crop = Crop(top=100, left=0, height=320, width=480)
    shown = draw_portrait_preview(picture, torch.ones(960, 480), SHAPE, crop=crop)
    assert shown.shape == (3, 960, 480)
    torch.testing.assert_close(shown[:, 104:416, 4:476], picture[:, 104:416, 4:476], atol=0.005, rtol=0)
    for outside in (shown[:, :98], shown[:, 422:]):
        torch.testing.assert_close(outside, picture[:, : outside.shape[1]] * CUT_OFF, atol=0.005, rtol=0)


def test_beside_a_square_crop_are_bars_even_beyond_the_portrait() -> None:
    picture = torch.full((3, 640, 320), 0.9)
    shown = draw_portrait_preview(
        picture, torch.ones(640, 320), SHAPE, crop=Crop(top=0, left=0, height=320, width=320)
    )
    assert shown.shape == (3, SIDE, 720)  # 480 columns of canvas, of which 320 are portrait
    bars = shown[:, 20:460, :100]
    assert min(BARS) - 0.01 < float(bars.max()) <= max(BARS) + 0.01
    assert float(bars.std()) > 0.02
    assert float(shown[:, 20:460, 140:580].min()) > 0.85
    assert float(shown[:, 500:, :100].max()) < 0.1
    upright = draw_portrait_preview(
        picture, torch.ones(640, 320), VideoShape(49, 96, 64), crop=Crop.whole(320, 320)
    )
    assert upright.shape == (3, SIDE, round(SIDE * 320 / 720))


def test_a_whole_square_looks_as_it_does_without_a_crop() -> None:
    picture, mask = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(1)), torch.zeros(80, 80)
    plain = draw_portrait_preview(picture, mask, VideoShape(49, 640, 960))
    shown = draw_portrait_preview(picture, mask, VideoShape(49, 640, 960), crop=Crop.whole(80, 80))
    assert plain.shape == shown.shape
    for part in (slice(156), slice(165, 795), slice(805, None)):  # not the line round it
        torch.testing.assert_close(shown[:, 4:-4, part], plain[:, 4:-4, part], atol=0.005, rtol=0)


@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0])
def test_faces_have_their_boxes_and_the_chosen_one_its_colour(brightness: float) -> None:
    picture = torch.full((3, 480, 960), brightness)
    faces = [PixelBox(100, 100, 200, 220), PixelBox(400, 120, 520, 260), PixelBox(700, 100, 790, 210)]
    mask = torch.zeros(480, 960)
    mask[106:274, 388:532] = 1
    for chosen in (1, None):
        crop = plan_crop(480, 960, faces[1], SHAPE)
        shown = draw_portrait_preview(
            picture, torch.zeros(480, 960), SHAPE, crop=crop, faces=faces, chosen=chosen
        )
        found = with_colour(shown, BOX)
        plate = PixelBox(400, 120 - 32, 520, 260)
        assert near(found, plate) if chosen is not None else found is None
    shown = draw_portrait_preview(picture, mask, SHAPE, crop=crop, faces=faces, chosen=1)
    assert near(with_colour(shown, BOX), PixelBox(388, 88, 532, 274))
    pale = tuple(level / 255 for level in PALE)
    assert near(with_colour(shown[:, :, :224], pale), PixelBox(100, 68, 200, 220))
    for line in (shown[:, 150, 95:106], shown[:, 95:106, 170]):  # seen on anything
        assert float(line.max() - line.min()) > 0.7


def test_each_face_has_another_number() -> None:
    faces = [PixelBox(60 + 90 * n, 200, 130 + 90 * n, 290) for n in range(10)]
    shown = draw_portrait_preview(torch.zeros(3, 480, 960), torch.zeros(480, 960), SHAPE, faces=faces)
    plates = [shown[:, 169:198, 60 + 90 * n : 104 + 90 * n] for n in range(10)]
    for index, plate in enumerate(plates):
        assert float(plate.std()) > 0.1
        assert all(float((plate - other).abs().max()) > 0.3 for other in plates[:index])


def test_boxes_at_and_beyond_the_edges_and_of_nothing_are_drawn() -> None:
    faces = [PixelBox(-50, -40, 30, 40), PixelBox(90, 60, 400, 300), PixelBox(40, 40, 40.2, 40.1)]
    faces.append(PixelBox(500, 500, 600, 600))
    for chosen in (None, 0, 1, 2, 3):
        shown = draw_portrait_preview(
            torch.rand(3, 96, 128), torch.zeros(96, 128), SHAPE, faces=faces, chosen=chosen
        )
        assert shown.shape == (3, 720, 960)
        assert float(shown.min()) >= 0
        assert float(shown.max()) <= 1


@pytest.mark.parametrize(("height", "width"), [(16, 4096), (4096, 16), (64, 64), (64, 8192)])
def test_strips_are_shown_round_the_crop(height: int, width: int) -> None:
    face = PixelBox(width * 0.8, height * 0.8, width * 0.8 + 10, height * 0.8 + 10)
    crop = plan_crop(height, width, face, SHAPE, "face")
    picture = torch.zeros(3, height, width)
    crop.of(picture).fill_(1)
    shown = draw_portrait_preview(
        picture, torch.zeros(height, width), SHAPE, crop=crop, faces=[face], chosen=0
    )
    assert max(shown.shape[1:]) == SIDE
    assert min(shown.shape[1:]) >= SIDE // STRIP
    assert float((shown > 0.99).all(dim=0).float().mean()) > 0.5 * crop.height * crop.width / (
        min(height, STRIP * width) * min(width, STRIP * height) + crop.height * crop.width
    )


MEASURED = """
import sys, torch
from pathlib import Path
from hallo3.geometry import PixelBox
from hallo3.media.canvas import fit
from hallo3.media.framing import face_box, plan_crop
from hallo3.media.portrait_preview import draw_portrait_preview
from hallo3.media.image import read_picture
from hallo3.media.paste_back import make_paste_back
from hallo3.geometry import VideoShape
def figure(name):
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(name))
shape = VideoShape(49, 480, 720)
fit(torch.rand(3, 900, 800), shape, mask=torch.ones(900, 800))
before = figure("VmRSS")
picture = read_picture(Path(sys.argv[1]))
mask = torch.zeros(picture.shape[1:])
mask[1000:3000, 2000:4000] = 1
for framing in ("face", "original"):
    face = face_box(mask)
    crop = plan_crop(*picture.shape[1:], face, shape, framing)
    fit(crop.of(picture), shape)
    fit(crop.of(picture), shape, mask=crop.of(mask))
    make_paste_back(picture, crop, shape)
    draw_portrait_preview(picture, mask, shape, crop=crop, faces=[face], chosen=0)
print(figure("VmHWM") - before - picture.numel() * 4 / 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_huge_portrait_takes_half_a_gigabyte_more_than_itself(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(8192, dtype=np.uint16) // 33, (8192, 1)).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2)).save(tmp_path / "huge.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "huge.png"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 512
