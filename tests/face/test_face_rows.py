"""Faces on odd pictures, row by row of the catalogue of bad inputs (I14, I15, I17, I20); I11 to I13 and I16
are in ``test_photographs``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.errors import FaceError
from hallo3.face import scrfd as detector
from hallo3.face.analyzer import analyze_portrait
from hallo3.face.drawn import DrawnFaceAnalyzer, face_box
from hallo3.face.photo import PhotographAnalyzer
from hallo3.face.scrfd import DetectedFace, Detector
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox, VideoShape
from hallo3.media.canvas import fit
from hallo3.media.image import read_picture, write_picture
from support import onnx_builder as onnx_files
from support.messages import expect_message

HEIGHT, WIDTH = 300, 400
DRAWS = 50
AHEAD = torch.tensor([[60.0, 80], [140, 80], [100, 120], [70, 160], [130, 160]])


def looking(*faces: DetectedFace, choice: FaceChoice | None = None) -> PhotographAnalyzer:
    """An analyzer whose detector answers so, and whose recogniser says where the eyes are."""
    return PhotographAnalyzer(
        detect=lambda _: list(faces),
        embed=lambda _, points: torch.cat((points.flatten(), torch.ones(502)))[None],
        choice=choice or FaceChoice(),
    )


def test_i14_a_doubtful_face_has_a_finite_result_and_a_warning_with_its_score() -> None:
    doubtful = DetectedFace(PixelBox(20, 20, 180, 200), 0.3, AHEAD)
    with expect_message(r"score 0\.30 of 1") as said:
        face = analyze_portrait(torch.rand(3, HEIGHT, WIDTH), looking(doubtful), FaceConfig())
    assert len(said) == 1
    assert bool(face.embedding.isfinite().all())


OVER = {
    "I15-left and top": (PixelBox(-60, -50, 150, 180), (0, 0)),
    "I15-right and bottom": (PixelBox(280, 200, 460, 380), (HEIGHT - 1, WIDTH - 1)),
    "I15-all around": (PixelBox(-100, -100, 900, 900), (HEIGHT // 2, WIDTH // 2)),
}


@pytest.mark.parametrize(("box", "corner"), OVER.values(), ids=OVER.keys())
def test_a_box_that_leaves_the_picture_is_cut(box: PixelBox, corner: tuple[int, int]) -> None:
    mask = looking(DetectedFace(box, 0.9, AHEAD)).select(torch.rand(3, HEIGHT, WIDTH)).mask
    inside = box.intersect(PixelBox(0, 0, WIDTH, HEIGHT))
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[corner] == 1
    assert inside.area <= float(mask.sum()) <= min(HEIGHT * WIDTH, 1.5 * box.area)


OUTSIDE = PixelBox(WIDTH, 0, WIDTH + 90, 90), PixelBox(10, -90, 80, 0)


@pytest.mark.parametrize("box", OUTSIDE, ids=["I15-right", "I15-above"])
def test_a_box_outside_is_an_error(box: PixelBox) -> None:
    with pytest.raises(FaceError, match=r"box cannot be used(.|\n)*inside 400 x 300 px"):
        looking(DetectedFace(box, 0.9, AHEAD)).select(torch.rand(3, HEIGHT, WIDTH))


LEVELS = {"I17-black": 0.0, "I17-grey": 0.5, "I17-white": 1.0}
plain = pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS.keys())


@plain
def test_a_plain_picture_is_no_photograph_of_a_face(level: float) -> None:
    """Refused; where the whole picture may be used, what the model gets of it is finite."""
    picture = torch.full((3, HEIGHT, WIDTH), level)
    with pytest.raises(FaceError, match="No face was found"):
        analyze_portrait(picture, looking(), FaceConfig())
    with expect_message("whole picture"):
        face = analyze_portrait(picture, looking(choice=FaceChoice(whole_picture=True)), FaceConfig())
    assert bool(face.embedding.isfinite().all())
    assert bool(face.mask.all())
    assert bool(fit(picture * face.mask, VideoShape.checked(17, 64, 64)).pixels.isfinite().all())


@plain
def test_a_plain_picture_is_told_by_the_built_in_model_s_analyzer(level: float) -> None:
    """It never refuses: the whole picture counts as the face, with a warning."""
    with expect_message("No drawn face was found") as said:
        face = DrawnFaceAnalyzer(512).analyze(torch.full((3, HEIGHT, WIDTH), level))
    assert len(said) == 1
    assert bool(face.embedding.isfinite().all())
    assert bool(face.mask.all())


def versions(picture: Tensor, folder: Path) -> list[Tensor]:
    """The same picture as a PNG, and in so many draws of noise of up to a level."""
    write_picture(picture, folder / "p.png")
    random = torch.Generator().manual_seed(20)
    noises = (torch.rand(picture.shape, generator=random) * 2 - 1 for _ in range(DRAWS))
    return [read_picture(folder / "p.png"), *((picture + noise / 255).clamp(0, 1) for noise in noises)]


def test_i20_a_drawn_face_stays_where_it_is(tmp_path: Path, samples: Path) -> None:
    for name in ("portrait.png", "portrait_2.png", "portrait_3.png"):
        picture = read_picture(samples / name)
        height, width = picture.shape[1:]
        boxes = [face_box(each) for each in (picture, *versions(picture, tmp_path))]
        places = torch.tensor([box for box in boxes if box is not None])
        assert len(places) == 2 + DRAWS
        moved = (places - places[0]).abs() * torch.tensor([width, height, width, height])
        assert float(moved.max()) <= 2


@pytest.mark.any_message
def test_i20_a_photographed_face_stays_where_it_is(tmp_path: Path) -> None:
    """The small network's boxes are one pixel's green, so noise of a level moves them by one pixel."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    (tmp_path / detector.DETECTOR_FILENAME).write_bytes(onnx_files.detector())
    find = Detector(tmp_path / detector.DETECTOR_FILENAME, unverified=True)
    picture = torch.zeros(3, 640, 640)
    picture[:, 320, 320] = torch.tensor([204, 100, 128]) / 255
    places: list[PixelBox] = []
    for each in (picture, *versions(picture, tmp_path)):
        (face,) = find(each)
        places.append(face.box)
    moved = (torch.tensor(places) - torch.tensor(places[0])).abs()
    assert 0 < float(moved.max()) <= 2
