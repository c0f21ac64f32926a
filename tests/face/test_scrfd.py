"""Finding and aligning faces, through onnxruntime, with small networks whose answers follow from pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.errors import FaceError
from hallo3.face import arcface
from hallo3.face import scrfd as detector
from hallo3.face.arcface import TEMPLATE, Recognizer, align, fit_similarity
from hallo3.face.scrfd import Detector, letterbox, suppress_overlaps
from support import onnx_builder as onnx_files

pytestmark = pytest.mark.any_message  # the small networks are not the published files
SIZES = [(640, 640), (1280, 960), (960, 1280), (320, 320), (512, 768)]


@pytest.fixture
def find(tmp_path: Path) -> Detector:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / detector.DETECTOR_FILENAME
    path.write_bytes(onnx_files.detector())
    return Detector(path, unverified=True)


def painted(height: int, width: int, *faces: tuple[int, int, int, int, int]) -> Tensor:
    """Black, with faces at x and y of what the network will see, each of a score, half side and turn."""
    picture = torch.zeros(3, height, width)
    scale = 640 / max(height, width)
    for x, y, score, half, turn in faces:
        first = [max(0, math.floor((at + 0.5) / scale - 0.5)) for at in (y, x)]
        last = [math.ceil((at + 0.5) / scale - 0.5) for at in (y, x)]
        spot = (slice(first[0], last[0] + 1), slice(first[1], last[1] + 1))
        picture[:, *spot] = torch.tensor([score, half, turn])[:, None, None] / 255
    return picture


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_faces_are_found_where_they_are(find: Detector, height: int, width: int) -> None:
    scale = 640 / max(height, width)
    (face,) = find(painted(height, width, (320, 160, 204, 100, 128)))
    assert face.score == pytest.approx(0.8, abs=0.01)
    assert face.box == pytest.approx([each / scale for each in (220, 60, 420, 260)], abs=1.5)
    expected = (torch.tensor(onnx_files.LANDMARKS) + torch.tensor([320, 160])) / scale
    torch.testing.assert_close(face.landmarks, expected.float(), atol=1.5, rtol=0)
    assert face.visible == pytest.approx(1)


def test_networks_with_an_axis_for_pictures_and_open_sizes_are_read_too(
    tmp_path: Path, find: Detector
) -> None:
    picture = painted(640, 640, (320, 160, 204, 100, 128))
    (expected,) = find(picture)
    for content in (onnx_files.detector(batched=True), onnx_files.detector("side")):
        path = tmp_path / "other.onnx"
        path.write_bytes(content)
        (face,) = Detector(path, unverified=True)(picture)
        assert (face.box, face.score) == (expected.box, expected.score)


@pytest.mark.parametrize("at", [8, 16, 32])
def test_every_grid_answers(find: Detector, at: int) -> None:
    """A pixel that lies on the finest grid only, on two, on all three."""
    (face,) = find(painted(640, 640, (320 + at, 320, 204, 100, 128)))
    assert face.box == pytest.approx((220 + at, 220, 420 + at, 420), abs=0.1)


def test_of_boxes_on_one_face_the_best_is_kept(find: Detector) -> None:
    near = [(320, 320, 153, 100, 128), (336, 320, 230, 100, 128), (320, 344, 204, 100, 128)]
    (face,) = find(painted(640, 640, *near))
    assert face.score == pytest.approx(230 / 255, abs=1e-3)
    assert face.box.left == pytest.approx(236, abs=0.1)


def test_faces_side_by_side_are_two(find: Detector) -> None:
    faces = find(painted(640, 640, (160, 320, 204, 100, 128), (448, 320, 230, 100, 128)))
    assert [round(face.box.left) for face in faces] == [348, 60]


def test_boxes_that_share_less_than_two_fifths_stay() -> None:
    """Of 100 x 100 boxes: shifted by 43 px they share 0.399 of their union, by 42 px 0.408."""
    box = torch.tensor([[0.0, 0, 99, 99]])
    assert suppress_overlaps(torch.cat((box, box + torch.tensor([43.0, 0, 43, 0])))) == [0, 1]
    assert suppress_overlaps(torch.cat((box, box + torch.tensor([42.0, 0, 42, 0])))) == [0]


def test_nothing_is_found_on_black(find: Detector) -> None:
    assert find(torch.zeros(3, 100, 100)) == []


def test_a_box_is_cut_at_the_border(find: Detector) -> None:
    (face,) = find(painted(640, 640, (32, 320, 204, 100, 128)))
    assert face.box == pytest.approx((0, 220, 132, 420), abs=0.1)
    assert face.visible == pytest.approx(132 / 200, abs=0.01)


def test_answers_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / detector.DETECTOR_FILENAME
    path.write_bytes(onnx_files.detector())
    find = Detector(path, unverified=True)
    with pytest.raises(FaceError, match="not finite"):
        find(torch.full((3, 640, 640), float("nan")))


@pytest.mark.parametrize(("height", "width"), [(640, 640), (1000, 500), (500, 1000), (64, 4096), (4096, 64)])
def test_the_picture_lies_in_the_upper_left_corner(height: int, width: int) -> None:
    values, scale = letterbox(torch.ones(3, height, width))
    assert values.shape == (1, 3, 640, 640)
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    lit = (values[0, 0] == 1 - 0.5 / 128).nonzero()
    assert lit.amax(dim=0).tolist() == pytest.approx([rows - 1, columns - 1], abs=1)
    if height != width:
        assert values.min() == -127.5 / 128


@pytest.mark.parametrize("degrees", [0, 20, -75, 180])
@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_a_known_turn_is_undone(degrees: float, scale: float) -> None:
    """Points moved by a known similarity lead back by its inverse, exactly."""
    angle = math.radians(degrees)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    template = np.array(TEMPLATE)
    found = fit_similarity(template @ turn.T + [40, -7], template)
    expected = np.linalg.inv(turn)
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-9)
    np.testing.assert_allclose(found[:, 2], -expected @ [40, -7], atol=1e-8)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    template = np.array(TEMPLATE)
    found = fit_similarity(template * [-1, 1], template)
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("shift", [(0, 0), (30, 12)])
def test_an_aligned_face_is_cut_out_pixel_by_pixel(shift: tuple[int, int]) -> None:
    levels = torch.randint(0, 256, (3, 200, 180), generator=torch.Generator().manual_seed(1))
    landmarks = torch.tensor(TEMPLATE) + torch.tensor(shift)
    crop = align(levels / 255, landmarks)
    x, y = shift
    assert (crop - levels[:, y : y + 112, x : x + 112]).abs().max() <= 1
    assert (crop != levels[:, y : y + 112, x : x + 112]).float().mean() < 0.01


def test_outside_the_picture_is_black() -> None:
    crop = align(torch.ones(3, 100, 100), torch.tensor(TEMPLATE) - 50)
    assert (crop[:, :49, :49] == 0).all()
    assert (crop[:, 51:, 51:] == 255).all()


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_landmarks_on_one_spot_or_nowhere_are_refused(number: float) -> None:
    with pytest.raises(FaceError, match="landmarks cannot be used"):
        align(torch.rand(3, 100, 100), torch.full((5, 2), number))


def test_the_embedding_is_raw_and_red_comes_first(tmp_path: Path) -> None:
    """Means of 8 x 8 pixels of red, then green, then blue, neither shortened nor lengthened."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / arcface.RECOGNIZER_FILENAME
    path.write_bytes(onnx_files.recognizer())
    colours = torch.tensor([255, 102, 51]) / 255
    embedding = Recognizer(path, unverified=True)(
        colours[:, None, None].expand(3, 112, 112), torch.tensor(TEMPLATE)
    )
    assert embedding.shape == (1, 512)
    for first, level in ((0, 255), (196, 102), (392, 51)):
        expected = torch.full((100,), (level - 127.5) / 127.5)
        torch.testing.assert_close(embedding[0, first : first + 100], expected, atol=1e-5, rtol=0)
