import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.errors import CheckpointError, DependencyError, FaceError
from hallo3.face.analyzer import FaceAnalyzer
from hallo3.face.arcface import RECOGNIZER_FILENAME
from hallo3.face.landmarks import SILHOUETTE
from hallo3.face.photo import FACE_SUBDIRS, PhotographAnalyzer
from hallo3.face.registry import analyze_portrait
from hallo3.face.scrfd import DETECTOR_FILENAME, DetectedFace
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox, VideoShape
from hallo3.media.canvas import fit
from support import onnx_builder
from support.messages import expect_message

FACE = DetectedFace(PixelBox(200, 100, 380, 300), 0.9, torch.tensor([[250.0, 180], [330, 180], [290, 220]]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / DETECTOR_FILENAME).write_bytes(onnx_builder.detector())
    (tmp_path / RECOGNIZER_FILENAME).write_bytes(onnx_builder.recognizer())
    return tmp_path


@pytest.mark.any_message
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0], ids="I17-{}".format)
def test_a_plain_picture_has_no_face(folder: Path, level: float) -> None:
    """The small network takes white for faces: not without its red. What the model gets is finite."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    picture = torch.full((3, 300, 400), level)
    picture[0] = 0
    analyzer = PhotographAnalyzer.from_folder(folder, unverified=True)
    with pytest.raises(FaceError, match="No face was found"):
        analyzer.analyze(picture)
    with expect_message("whole picture"):
        face = replace(analyzer, choice=FaceChoice(whole_picture=True)).analyze(picture)
    assert bool(face.mask.all())
    assert bool(face.embedding.isfinite().all())
    assert bool(fit(picture * face.mask, VideoShape.checked(17, 64, 64)).pixels.isfinite().all())


@pytest.mark.any_message
def test_a_face_goes_through_both_networks(folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    analyzer = PhotographAnalyzer.from_folder(folder, unverified=True)
    assert isinstance(analyzer, FaceAnalyzer)
    picture = torch.full((3, 640, 640), 0.2)
    picture[0] = 0
    picture[:, 320, 320] = torch.tensor([230, 120, 128]) / 255
    face = analyze_portrait(picture, analyzer, FaceConfig())
    assert face.mask.sum() == 288 * 288
    (detected,) = analyzer.select(picture).faces
    assert detected.score == pytest.approx(230 / 255, abs=1e-4)
    assert face.embedding[0, [0, 196]].tolist() == pytest.approx([-1, 51 / 127.5 - 1], abs=1e-4)


@pytest.mark.parametrize("place", FACE_SUBDIRS)
def test_files_are_found_where_archives_put_them(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name in (DETECTOR_FILENAME, RECOGNIZER_FILENAME):
        (tmp_path / place / name).write_bytes(b"not read yet")
    assert PhotographAnalyzer.from_folder(tmp_path).space == FaceConfig().space


@pytest.mark.parametrize("name", [DETECTOR_FILENAME, RECOGNIZER_FILENAME])
def test_a_missing_file_is_named_with_its_source_and_licence(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}(.|\n)*non-commercial(.|\n)*huggingface"):
        PhotographAnalyzer.from_folder(folder)


def test_without_onnxruntime_the_error_names_a_fix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer = PhotographAnalyzer.from_folder(folder, unverified=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="pip install onnxruntime"):
        analyzer.analyze(torch.rand(3, 100, 100))


def test_the_mask_is_made_of_landmarks_or_else_of_the_detector_s_box() -> None:
    picture, points = torch.rand(3, 400, 600), torch.tensor([270.0, 160]).repeat(478, 1)
    points[SILHOUETTE[0]], points[SILHOUETTE[1]] = torch.tensor([220.0, 110]), torch.tensor([320.0, 210])

    def find_landmarks(where: Tensor, face: DetectedFace) -> Tensor | None:
        assert where is picture
        return points if face is FACE else None

    of_points, of_box = (slice(100, 220), slice(210, 330)), (slice(80, 320), slice(182, 398))
    doubtful = (replace(FACE, score=0.8), find_landmarks, of_box)
    for face, finder, part in ((FACE, find_landmarks, of_points), (FACE, None, of_box), doubtful):
        mask = torch.zeros(400, 600)
        mask[part] = 1
        networks = {"detect": Mock(return_value=[face]), "embed": Mock(return_value=torch.ones(1, 512))}
        analyzer = PhotographAnalyzer(**networks, landmarks=finder)
        assert torch.equal(analyzer.select(picture).mask, mask)
