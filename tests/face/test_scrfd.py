import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.errors import FaceError
from hallo3.face.scrfd import DETECTOR_FILENAME, Detector, letterbox, suppress_overlaps
from support import onnx_builder

pytestmark = pytest.mark.any_message  # the small networks are not the published files


@pytest.fixture
def detect(tmp_path: Path) -> Detector:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / DETECTOR_FILENAME
    path.write_bytes(onnx_builder.detector())
    return Detector(path, unverified=True)


def draw_faces(height: int, width: int, *faces: tuple[int, int, int, int, int]) -> Tensor:
    """Black, with faces at x and y of the network's input, each with a score, a half side and a turn."""
    picture = torch.zeros(3, height, width)
    for x, y, *levels in faces:
        places = [(at + 0.5) * max(height, width) / 640 - 0.5 for at in (y, x)]
        spot = (slice(max(0, math.floor(place)), math.ceil(place) + 1) for place in places)
        picture[:, *spot] = torch.tensor(levels)[:, None, None] / 255
    return picture


@pytest.mark.parametrize(("height", "width"), [(640, 640), (1280, 960), (960, 1280), (320, 320), (512, 768)])
def test_faces_are_detected_where_they_are(detect: Detector, height: int, width: int) -> None:
    scale = 640 / max(height, width)
    (face,) = detect(draw_faces(height, width, (320, 160, 204, 100, 128)))
    assert face.score == pytest.approx(0.8, abs=0.01)
    assert face.box == pytest.approx([edge / scale for edge in (220, 60, 420, 260)], abs=1.5)
    expected = (torch.tensor(onnx_builder.LANDMARKS) + torch.tensor([320, 160])) / scale
    torch.testing.assert_close(face.landmarks, expected.float(), atol=1.5, rtol=0)
    assert face.visible == pytest.approx(1)


def test_networks_with_an_axis_for_pictures_and_open_sizes_work(tmp_path: Path, detect: Detector) -> None:
    picture = draw_faces(640, 640, (320, 160, 204, 100, 128))
    (expected,) = detect(picture)
    for content in (onnx_builder.detector(batched=True), onnx_builder.detector("side")):
        (tmp_path / "other.onnx").write_bytes(content)
        (face,) = Detector(tmp_path / "other.onnx", unverified=True)(picture)
        assert (face.box, face.score) == (expected.box, expected.score)
    with pytest.raises(FaceError, match="not finite"):
        detect(picture * float("nan"))


BOXES: dict[str, tuple[list[tuple[int, int, int]], list[tuple[int, int]]]] = {
    "nothing": ([], []),
    "on the finest grid only": ([(328, 320, 204)], [(228, 220)]),
    "on two grids": ([(336, 320, 204)], [(236, 220)]),
    "on all grids": ([(352, 320, 204)], [(252, 220)]),
    "of boxes on one face the best": ([(320, 320, 153), (336, 320, 230), (320, 344, 204)], [(236, 220)]),
    "side by side, best first": ([(160, 320, 204), (448, 320, 230)], [(348, 220), (60, 220)]),
    "cut at the edge": ([(32, 320, 204)], [(-68, 220)]),
}
"""Middles and scores of faces, and the left and top edges of their boxes of 200 x 200, best first."""


@pytest.mark.parametrize("case", BOXES)
def test_boxes(detect: Detector, case: str) -> None:
    faces, corners = BOXES[case]
    detected = detect(draw_faces(640, 640, *((*face, 100, 128) for face in faces)))
    boxes = [(max(0, left), top, left + 200, top + 200) for left, top in corners]
    assert [face.box for face in detected] == [pytest.approx(box, abs=0.1) for box in boxes]
    if case == "cut at the edge":
        assert detected[0].visible == pytest.approx(132 / 200, abs=0.01)


def test_boxes_with_a_small_overlap_are_not_suppressed() -> None:
    """100 x 100 boxes shifted by 43 px have an intersection over union of 0.399, by 42 px 0.408."""
    for shift, kept in ((43, [0, 1]), (42, [0])):
        assert suppress_overlaps(torch.tensor([[0.0, 0, 99, 99], [shift, 0, 99 + shift, 99]])) == kept


@pytest.mark.parametrize(("height", "width"), [(640, 640), (1000, 500), (500, 1000), (64, 4096), (4096, 64)])
def test_the_picture_is_in_the_upper_left_corner(height: int, width: int) -> None:
    pixels, scale = letterbox(torch.ones(3, height, width))
    assert pixels.shape == (1, 3, 640, 640)
    white = (pixels[0, 0] == 1 - 0.5 / 128).nonzero()
    sides = [max(1, int(side * scale)) for side in (height, width)]
    assert white.amax(dim=0).tolist() == pytest.approx([side - 1 for side in sides], abs=1)
    assert height == width or pixels.min() == -127.5 / 128
