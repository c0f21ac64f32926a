import itertools

import pytest
import torch

from hallo3.errors import InputError
from hallo3.face.landmarks import box_mask
from hallo3.geometry import PixelBox, VideoShape
from hallo3.media.canvas import fit
from hallo3.media.framing import FACE_CENTRE, FACE_HEIGHT, FRAMINGS, TIGHT_HEIGHT, Crop, face_box, plan_crop

SHAPE = VideoShape(49, 480, 720)
SHAPES = (SHAPE, *(VideoShape(17, *size) for size in ((64, 96), (96, 64), (32, 32), (464, 688))))
SIZES = ["1920x1080", "1080x1920", "960x1280", "64x64", "65x64", "97x64", "16x4096", "4096x16", "481x721"]
FACES = [(0.4, 0.3, 0.6, 0.5), (0.7, 0.71, 0.72, 0.74), (0, 0, 1, 1), (0.01, 0.02, 0.97, 0.99)]
FACES += [(-1, -2, 3, 2), (0.9, 0.85, 1, 1), (-0.1, 0.4, 0.1, 0.6), (0.45, 0.05, 0.55, 0.95)]
FACES += [(0.05, 0.45, 0.95, 0.55)]
"""In shares: in the middle, small, all, nearly all, more than all; in a corner, half outside, tall, wide."""
BY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.height}x{shape.width}")


@BY_SHAPE
@pytest.mark.parametrize("size", SIZES)
def test_any_face_gets_a_crop_inside_the_picture(size: str, shape: VideoShape) -> None:
    height, width = map(int, size.split("x"))
    for (left, top, right, bottom), framing in itertools.product(FACES, FRAMINGS):
        face = PixelBox(left * width, top * height, right * width, bottom * height)
        crop = plan_crop(height, width, face, shape, framing)
        assert all(type(side) is int for side in (crop.top, crop.left, crop.height, crop.width))
        assert min(crop.height, crop.width) >= 1, face
        whole = Crop.whole(height, width).box
        assert crop.box.intersect(whole) == crop.box, face
        if framing == "face":
            check_face_crop(crop, face.intersect(whole), (height, width), shape)


def check_face_crop(crop: Crop, inside: PixelBox, size: tuple[int, int], shape: VideoShape) -> None:
    """It has one of the two aspects, and holds the face if any crop of these could."""
    (height, width), aspect = size, shape.width / shape.height
    assert crop.height == crop.width or abs(crop.width - crop.height * aspect) <= 0.5
    tall, wide = inside.bottom - inside.top, inside.right - inside.left
    if crop.height >= tall + 2 and crop.width >= wide + 2:
        assert crop.box.intersect(inside) == inside
        return
    canvas, square = min(height, width / aspect), min(height, width)
    for h, w in ((canvas, canvas * aspect), (square, square)):
        assert h <= tall * 1.035 + 2 or w <= wide * 1.035 + 2, f"{crop}: {h} x {w} would hold {inside}"


@pytest.mark.parametrize(("height", "width", "side"), [(1920, 1080, 640), (1080, 1920, 1080)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_a_face_with_room_around_it_is_at_its_place(height: int, width: int, side: int, share: float) -> None:
    tall = share * side
    for x, y in ((0.3 * width, 0.5 * height), (0.5 * width, 0.45 * height), (0.7 * width, 0.6 * height)):
        face = PixelBox(x - tall * 0.4, y - tall / 2, x + tall * 0.4, y + tall / 2)
        crop = plan_crop(height, width, face, SHAPE)
        shares = (x - crop.left) / crop.width, (y - crop.top) / crop.height, tall / crop.height
        assert shares == pytest.approx((0.5, FACE_CENTRE, FACE_HEIGHT), abs=0.02)
        assert crop.height * 3 == crop.width * 2


def test_a_square_is_used_where_the_canvas_would_be_tight() -> None:
    for size, face, square in (
        ((1920, 1080), (400, 400, 680, 790), False),  # 0.54 of the 720 rows of 3:2
        ((1920, 1080), (390, 400, 690, 800), True),  # 0.56
        ((1350, 1080), (330, 350, 700, 830), True),
        ((960, 1280), (376, 190, 820, 800), True),
        ((1080, 1920), (640, 220, 1200, 880), False),  # a square would be no higher
    ):
        crop = plan_crop(*size, PixelBox(*face), SHAPE)
        assert (crop.height == crop.width) == square
        assert not square or (face[3] - face[1]) / min(size[0], size[1] / 1.5) > TIGHT_HEIGHT


@pytest.mark.parametrize("share", [0.45, 0.55, 0.62])
def test_hair_and_chin_are_inside(share: float) -> None:
    tall = share * 1080
    crop = plan_crop(1920, 1080, PixelBox(400, 600, 680, 600 + tall), SHAPE)
    assert crop.top <= 600 - 0.3 * tall
    assert crop.top + crop.height >= 600 + 1.1 * tall
    larger = plan_crop(1920, 1080, PixelBox(100, 300, 980, 1500), SHAPE)
    assert (larger.top + larger.height, larger.height) == (1500 + 65, 1080)


@pytest.mark.parametrize("size", [(700, 700), (480, 720), (480, 724), (1000, 1490), (1920, 1080)])
def test_a_portrait_that_is_used_whole(size: tuple[int, int]) -> None:
    face = PixelBox(10, 10, 40, 50)
    whole = Crop.whole(*size)
    assert plan_crop(*size, face, SHAPE, "original") == whole
    unknown = (None, whole.box, PixelBox(-50, -50, -10, -10))
    assert all(plan_crop(*size, each, SHAPE) == whole for each in unknown)
    assert (plan_crop(*size, face, SHAPE) == whole) == (size != (1920, 1080))
    assert plan_crop(*size, face, SHAPE, "face") != whole


def test_an_impossible_framing_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown framing"):
        plan_crop(100, 100, None, SHAPE, "Face")
    nowhere = (None, PixelBox(200, 0, 300, 50), PixelBox(5, 5, 5, 50), PixelBox(float("nan"), 0, 50, 50))
    for face in nowhere:
        with pytest.raises(InputError, match="no face to frame"):
            plan_crop(100, 100, face, SHAPE, "face")


def test_a_crop_is_a_view() -> None:
    picture, crop = torch.arange(3 * 20 * 30.0).reshape(3, 20, 30), Crop(top=2, left=4, height=5, width=6)
    assert torch.equal(crop.of(picture), picture[:, 2:7, 4:10])
    assert crop.of(picture).untyped_storage().data_ptr() == picture.untyped_storage().data_ptr()
    assert crop.of(picture[0]).shape == (5, 6)
    assert crop.box == PixelBox(4, 2, 10, 7)


@BY_SHAPE
@pytest.mark.parametrize("tall", [30, 31, 97, 211, 400])
def test_the_canvas_shows_all_of_a_crop(tall: int, shape: VideoShape) -> None:
    """Half a pixel of the portrait each side at most; where the canvas' steps are small, nothing."""
    crop = plan_crop(1000, 1400, PixelBox(600, 300, 600 + 0.8 * tall, 300 + tall), shape, "face")
    lost = [abs(a - b) for a, b in zip(crop.visible_box(shape), crop.box, strict=True)]
    assert max(lost) <= 0.5
    assert shape.height * 3 != shape.width * 2 or max(lost) == 0


STRIPS = [(77, 513), (64, 4096), (4096, 64)]


@pytest.mark.parametrize("size", [(301, 200), (200, 301), (480, 720), (300, 300), *STRIPS])
def test_what_is_shown_is_what_fit_shows(size: tuple[int, int]) -> None:
    """Brightness is position: red of rows, green of columns. It is the middle, and not distorted."""
    height, width = size
    rows = ((torch.arange(height) + 0.5) / height)[:, None].expand(size)
    columns = ((torch.arange(width) + 0.5) / width).expand(size)
    canvas = fit(torch.stack([rows, columns, rows]), SHAPE)
    visible = (canvas.uncrop(canvas.pixels)[0, :2, 0] + 1) / 2
    left, top, right, bottom = Crop.whole(*size).visible_box(SHAPE)
    assert (left + right, top + bottom) == pytest.approx((width, height), abs=1)
    scales = (right - left) / visible.shape[2], (bottom - top) / visible.shape[1]
    assert scales[0] == pytest.approx(scales[1], rel=0.01)
    for profile, low, high, side in ((visible[0], top, bottom, height), (visible[1].T, left, right, width)):
        middles = low + (torch.arange(len(profile)) + 0.5) * (high - low) / len(profile)
        inner = slice(len(profile) // 8, -len(profile) // 8)
        assert float((profile.mean(dim=1) * side - middles)[inner].abs().max()) < (0.05 if side < 4096 else 1)


def test_the_face_is_the_box_of_its_mask_if_that_tells_one() -> None:
    for face in ((30, 40, 90, 120), (31, 41, 90, 120), (100, 60, 155, 133)):
        assert face_box(box_mask(PixelBox(*face), 200, 220)) == pytest.approx(face, abs=1.5)
    nearly, dot = torch.ones(100, 100), torch.zeros(50, 60)
    nearly[:2], dot[7, 9] = 0, 1
    for mask in (torch.zeros(50, 60), torch.full((50, 60), 0.5), torch.ones(50, 60), nearly):
        assert face_box(mask) is None
    nearly[:3] = 0
    assert face_box(nearly) is not None
    box = face_box(dot)
    assert box is not None
    assert box.area == pytest.approx(1 / 1.44)
