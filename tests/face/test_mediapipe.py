"""MediaPipe's landmarks by its package, with a stand-in of the package: whose they are, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.face import arcface
from hallo3.face import scrfd as detector
from hallo3.face.landmarks import box_mask, silhouette_box
from hallo3.face.mediapipe import (
    TASK_FILENAME,
    MediaPipeLandmarks,
    create_landmark_finder,
    find_task_file,
    get_landmark_version,
)
from hallo3.face.photo import BOX_FALLBACK, FACE_SUBDIRS, PhotographAnalyzer
from hallo3.face.registry import create_analyzer
from hallo3.face.scrfd import DetectedFace
from hallo3.geometry import PixelBox
from support.fake_mediapipe import (
    DETECTED,
    PICTURE,
    analyze_picture,
    install_fake,
    make_analyzer,
    points,
    task,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / TASK_FILENAME).write_bytes(task())
    return tmp_path / TASK_FILENAME


def test_landmarks_are_pixels_of_the_picture_and_make_the_mask(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = points(105, 50, 195, 178)
    library = install_fake(monkeypatch, lambda _: [there])
    found = create_landmark_finder(file.parent)(PICTURE, DETECTED)
    assert found is not None
    assert torch.allclose(found, there, atol=1e-9)
    face, said = analyze_picture(create_landmark_finder(file.parent))
    assert said == []
    assert torch.equal(face.mask, box_mask(silhouette_box(there), 300, 400))
    assert not torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert library.content == file.read_bytes()
    assert [each.closed for each in library.made] == [True, True]


def test_what_mediapipe_looks_at_is_the_picture_in_levels(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[np.ndarray[Any, Any]] = []
    install_fake(monkeypatch, lambda levels: looked.append(levels) or [points(*DETECTED.box)])
    create_landmark_finder(file.parent)(PICTURE, DETECTED)
    (levels,) = looked
    assert np.abs(levels.transpose(2, 0, 1) / 255 - PICTURE.numpy()).max() <= 0.5 / 255 + 1e-6


def test_of_several_faces_the_one_that_was_found_is_taken(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = points(95, 55, 190, 170), points(200, 60, 300, 180)
    broken = points(*DETECTED.box)
    broken[300] = float("nan")
    install_fake(monkeypatch, lambda _: [right, broken, left])
    finder = create_landmark_finder(file.parent)
    for box, expected in ((DETECTED.box, left), (PixelBox(205, 60, 305, 180), right)):
        found = finder(PICTURE, replace(DETECTED, box=box))
        assert found is not None
        assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("box", "part"),
    [
        (PixelBox(180, 120, 220, 160), (150, 90, 250, 190)),
        (PixelBox(0, 0, 40, 40), (0, 0, 70, 70)),
        (PixelBox(370, 240, 400, 300), (310, 195, 400, 300)),
    ],
    ids=["in the middle", "upper left", "lower right"],
)
def test_who_is_too_small_for_the_whole_picture_is_seen_on_a_part(
    file: Path, monkeypatch: pytest.MonkeyPatch, box: PixelBox, part: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = part

    def seen(levels: np.ndarray[Any, Any]) -> list[Tensor]:
        if levels.shape == (300, 400, 3):
            return [points(300, 10, 390, 90)]
        assert levels.shape == (bottom - top, right - left, 3)
        return [points(box.left - left, box.top - top, box.right - left, box.bottom - top)]

    install_fake(monkeypatch, seen)
    found = create_landmark_finder(file.parent)(PICTURE, replace(DETECTED, box=box))
    assert found is not None
    assert torch.allclose(found, points(*box), atol=1e-9)


@pytest.mark.parametrize("faces", [[], [points(250, 60, 350, 180)]], ids=["nobody", "somebody else"])
def test_where_no_landmarks_are_found_the_detector_s_box_stands_in(
    file: Path, monkeypatch: pytest.MonkeyPatch, faces: list[Tensor]
) -> None:
    install_fake(monkeypatch, lambda levels: faces if levels.shape[1] == 400 else [])
    face, said = analyze_picture(create_landmark_finder(file.parent))
    assert torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert said == [f"{BOX_FALLBACK}: MediaPipe finds no face where the detector does."]


@pytest.mark.parametrize("version", ["0.10.21", "0.10.30", "0.10.33"])
def test_what_decides_the_mask_can_be_asked(
    file: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install_fake(monkeypatch, version=version)
    assert get_landmark_version(file.parent) == (file, version)
    assert get_landmark_version(file.parent / "elsewhere" / "below") is None


@pytest.mark.parametrize("place", [*FACE_SUBDIRS, ".."])
@pytest.mark.parametrize("name", [TASK_FILENAME, "face_landmarker.task"])
def test_the_file_is_found_where_archives_put_it_or_beside(tmp_path: Path, place: str, name: str) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    assert find_task_file(folder) is None
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / name).write_bytes(b"not read yet")
    found = find_task_file(folder)
    assert found is not None
    assert found.samefile(folder / place / name)


def test_the_analyzer_of_photographs_looks_for_landmarks_by_itself(file: Path) -> None:
    for name in (detector.DETECTOR_FILENAME, arcface.RECOGNIZER_FILENAME):
        (file.parent / name).write_bytes(b"not read yet")
    own = create_analyzer(FaceConfig(), file.parent)
    assert isinstance(own, PhotographAnalyzer)
    assert own.landmarks == MediaPipeLandmarks(file)

    def given(picture: Tensor, face: DetectedFace) -> None:
        del picture, face

    own = create_analyzer(FaceConfig(), file.parent, landmarks=given)
    assert isinstance(own, PhotographAnalyzer)
    assert own.landmarks is given
