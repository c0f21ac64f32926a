import io
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.errors import CheckpointError, DependencyError
from hallo3.face import mediapipe
from hallo3.face.landmarks import box_mask, silhouette_box
from hallo3.face.mediapipe import INSTALL, TASK_FILENAME, create_landmark_finder, get_landmark_version
from hallo3.face.photo import BOX_FALLBACK, FACE_SUBDIRS
from hallo3.geometry import PixelBox
from support import fake_mediapipe as fake
from support.fake_mediapipe import DETECTED, PICTURE, make_analyzer, make_landmarks

Install = Callable[..., fake.MediaPipe]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / TASK_FILENAME).write_bytes(fake.make_task_file())
    return tmp_path / TASK_FILENAME


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    return partial(fake.install_mediapipe, monkeypatch)


def check_fallback(folder: Path, *expected: str) -> None:
    """The mask is made of the detector's box, and one note says why."""
    face, notes = fake.analyze(create_landmark_finder(folder))
    assert torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    (note,) = notes
    assert note.startswith(BOX_FALLBACK)
    assert all(text in note for text in expected), note


def check_landmarks(path: Path, box: PixelBox, expected: Tensor) -> None:
    landmarks = create_landmark_finder(path.parent)(PICTURE, replace(DETECTED, box=box))
    assert landmarks is not None
    assert torch.allclose(landmarks, expected, atol=1e-9)


def test_landmarks_are_in_pixels_and_make_the_mask(path: Path, install: Install) -> None:
    expected, pictures = make_landmarks(105, 50, 195, 178), list[np.ndarray[Any, Any]]()
    library = install(lambda levels: pictures.append(levels) or [expected])
    check_landmarks(path, DETECTED.box, expected)
    face, notes = fake.analyze(create_landmark_finder(path.parent))
    assert notes == []
    assert torch.equal(face.mask, box_mask(silhouette_box(expected), 300, 400))
    assert not torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert library.content == path.read_bytes()
    assert [landmarker.closed for landmarker in library.landmarkers] == [True, True]
    assert np.abs(pictures[0].transpose(2, 0, 1) / 255 - PICTURE.numpy()).max() <= 0.5 / 255 + 1e-6


def test_of_several_faces_the_detected_one_is_used(path: Path, install: Install) -> None:
    left, right = make_landmarks(95, 55, 190, 170), make_landmarks(200, 60, 300, 180)
    broken = make_landmarks(*DETECTED.box)
    broken[300] = float("nan")
    install(lambda _: [right, broken, left])
    for box, expected in ((DETECTED.box, left), (PixelBox(205, 60, 305, 180), right)):
        check_landmarks(path, box, expected)


Edges = tuple[int, int, int, int]
REGIONS: dict[Edges, Edges] = {(180, 120, 220, 160): (150, 90, 250, 190), (0, 0, 40, 40): (0, 0, 70, 70)}
REGIONS |= {(370, 240, 400, 300): (310, 195, 400, 300)}


@pytest.mark.parametrize("edges", REGIONS, ids=str)
def test_a_small_face_is_found_in_a_region_around_it(path: Path, install: Install, edges: Edges) -> None:
    box, (left, top, right, bottom) = PixelBox(*edges), REGIONS[edges]

    def detect(levels: np.ndarray[Any, Any]) -> list[Tensor]:
        if levels.shape == (300, 400, 3):
            return [make_landmarks(300, 10, 390, 90)]
        assert levels.shape == (bottom - top, right - left, 3)
        return [make_landmarks(box.left - left, box.top - top, box.right - left, box.bottom - top)]

    install(detect)
    check_landmarks(path, box, make_landmarks(*box))


@pytest.mark.parametrize("faces", [[], [make_landmarks(250, 60, 350, 180)]], ids=["no face", "another face"])
def test_without_landmarks_the_box_is_used(path: Path, install: Install, faces: list[Tensor]) -> None:
    install(lambda levels: faces if levels.shape[1] == 400 else [])
    check_fallback(path.parent, "MediaPipe finds no face where the detector does")


@pytest.mark.parametrize("place", [*FACE_SUBDIRS, ".."])
@pytest.mark.parametrize("name", [TASK_FILENAME, "face_landmarker.task"])
def test_the_file_is_found_where_archives_put_it_or_beside(tmp_path: Path, place: str, name: str) -> None:
    folder, path = tmp_path / "faces", tmp_path / "faces" / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert mediapipe.find_task_file(folder) is None
    path.write_bytes(b"not read yet")
    found = mediapipe.find_task_file(folder)
    assert found is not None
    assert found.samefile(path)


def pack(name: str, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


WHOLE = fake.make_task_file()
OTHER = WHOLE.replace(b"face_detector", b"nose_detector")
FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "is missing"),
    "a folder": (b"folder", "cannot be used"),
    "empty": (b"", "not a complete archive"),
    "a web page": (b"<html>not found</html>", "not a complete archive"),
    "truncated": (WHOLE[:900], "not a complete archive"),
    "changed": (WHOLE.replace(b"numbers of", b"numbers if", 1), "face_detector.tflite: wrong checksum"),
    "a bomb": (pack("face_detector.tflite", bytes(80 << 20)), "83,886,080 bytes unpacked"),
    "packed by bzip2": (pack("face_detector.tflite", b"", zipfile.ZIP_BZIP2), "packed in another way"),
    "many members": (WHOLE + b"PK\1\2" * 70, "64 members"),
    "a large file": (bytes((64 << 20) + 1), "67,108,864 bytes"),
    "a pipe": (b"pipe", "not a regular file"),
    "another archive": (OTHER, "an archive of face_landmarks_detector.tflite, n"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_not_given_to_mediapipe(tmp_path: Path, install: Install, case: str) -> None:
    library, (content, expected), path = install(), FILES[case], tmp_path / TASK_FILENAME
    if content is not None:
        make = {b"folder": path.mkdir, b"pipe": lambda: os.mkfifo(path)}
        make.get(content, lambda: path.write_bytes(content))()
    with pytest.raises(CheckpointError, match=expected) as error:
        mediapipe.MediaPipeLandmarks(path)(PICTURE, DETECTED)
    assert INSTALL not in str(error.value)  # it is installed
    check_fallback(tmp_path, expected)
    assert library.landmarkers == []


def test_errors_are_the_file_s_unless_memory_runs_out(path: Path, install: Install) -> None:
    for error in (ValueError("not a valid Flatbuffer"), RuntimeError(""), OSError("no")):
        install(Mock(side_effect=error))
        check_fallback(path.parent, f"{TASK_FILENAME}: {str(error) or 'RuntimeError'}")
    install(Mock(side_effect=RuntimeError("Out of memory")))
    with pytest.raises(MemoryError):
        make_analyzer(create_landmark_finder(path.parent)).analyze(PICTURE)


def test_without_the_package_the_note_names_a_fix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    check_fallback(path.parent, f"Fix: {INSTALL}.")
    path.unlink()
    check_fallback(path.parent, TASK_FILENAME, INSTALL)


@pytest.mark.parametrize("body", ["raise TypeError", "raise SystemError", "__version__ = 'unknown'", "pass"])
def test_a_package_that_fails_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    site = path.parent / "site"
    (site / "mediapipe").mkdir(parents=True)
    (site / "mediapipe" / "__init__.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    check_fallback(path.parent, "cannot be imported", f"Fix: {INSTALL}.")
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    assert get_landmark_version(path.parent) is None


def test_versions_that_report_their_use_are_not_used(path: Path, install: Install) -> None:
    """Seen with strace in a network of its own: 0.10.30 to 0.10.33 open no socket, 0.10.35 and later do."""
    for version in ("0.10.21", "0.10.30", "0.10.33"):
        install(version=version)
        assert get_landmark_version(path.parent) == (path, version)
        assert get_landmark_version(path.parent / "elsewhere" / "below") is None
    for version in ("0.10.35", "1.2.3", "0.11", "1.0.0rc1"):
        library = install(lambda _: [make_landmarks(*DETECTED.box)], version)
        with pytest.raises(DependencyError, match=r"makers|imported"):
            create_landmark_finder(path.parent)(PICTURE, DETECTED)
        assert (library.landmarkers, get_landmark_version(path.parent)) == ([], None)
