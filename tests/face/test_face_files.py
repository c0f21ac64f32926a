"""Photographs through both networks, from a folder of files: real onnxruntime, small networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hallo3.config import FaceConfig
from hallo3.errors import CheckpointError, DependencyError, FaceError
from hallo3.face import arcface
from hallo3.face import scrfd as detector
from hallo3.face.analyzer import FaceAnalyzer, analyze_portrait
from hallo3.face.photo import FACE_SUBDIRS, PhotographAnalyzer
from hallo3.face.registry import create_analyzer
from hallo3.face.selection import FaceChoice
from support import onnx_builder as onnx_files
from support.messages import expect_message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    (tmp_path / detector.DETECTOR_FILENAME).write_bytes(onnx_files.detector())
    (tmp_path / arcface.RECOGNIZER_FILENAME).write_bytes(onnx_files.recognizer())
    return tmp_path


@pytest.mark.any_message
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_pictures_without_a_face(folder: Path, level: float) -> None:
    """The small network takes white for faces; with the white's red taken out, it finds none."""
    picture = torch.full((3, 100, 100), level)
    picture[0] = 0
    with pytest.raises(FaceError, match="No face was found"):
        PhotographAnalyzer.from_folder(folder, unverified=True).analyze(picture)
    judge = PhotographAnalyzer.from_folder(folder, choice=FaceChoice(whole_picture=True), unverified=True)
    with expect_message("whole picture"):
        assert judge.analyze(picture).mask.all()


def test_a_face_goes_all_the_way_through_both_networks(folder: Path) -> None:
    judge = create_analyzer(FaceConfig(), folder, unverified=True)
    assert isinstance(judge, FaceAnalyzer)
    assert isinstance(judge, PhotographAnalyzer)
    picture = torch.full((3, 640, 640), 0.2)
    picture[0] = 0
    picture[:, 320, 320] = torch.tensor([230, 120, 128]) / 255
    with expect_message("detector's box"):
        face = analyze_portrait(picture, judge, FaceConfig())
    assert face.mask.sum() == 288 * 288
    (seen,) = judge.select(picture).faces
    assert seen.score == pytest.approx(230 / 255, abs=1e-4)
    assert face.embedding[0, 0] == pytest.approx(-1)
    assert face.embedding[0, 196] == pytest.approx((51 - 127.5) / 127.5, abs=1e-4)


@pytest.mark.parametrize("place", FACE_SUBDIRS)
def test_files_are_found_where_archives_put_them(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name in (detector.DETECTOR_FILENAME, arcface.RECOGNIZER_FILENAME):
        (tmp_path / place / name).write_bytes(b"not read yet")
    assert PhotographAnalyzer.from_folder(tmp_path).space == FaceConfig().space


@pytest.mark.parametrize("absent", [detector.DETECTOR_FILENAME, arcface.RECOGNIZER_FILENAME])
def test_a_missing_file_is_named_with_where_it_is_and_its_licence(tmp_path: Path, absent: str) -> None:
    for name in {detector.DETECTOR_FILENAME, arcface.RECOGNIZER_FILENAME} - {absent}:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"non-commercial(.|\n)*{absent}(.|\n)*huggingface"):
        create_analyzer(FaceConfig(), tmp_path)


def test_without_onnxruntime_the_install_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / detector.DETECTOR_FILENAME).write_bytes(onnx_files.detector())
    (tmp_path / arcface.RECOGNIZER_FILENAME).write_bytes(onnx_files.recognizer())
    judge = PhotographAnalyzer.from_folder(tmp_path, unverified=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="pip install onnxruntime"):
        judge.analyze(torch.rand(3, 100, 100))


def test_without_a_folder_the_files_are_asked_for() -> None:
    with pytest.raises(FaceError, match=r"arcface-glintr100(.|\n)*glintr100\.onnx"):
        create_analyzer(FaceConfig())
