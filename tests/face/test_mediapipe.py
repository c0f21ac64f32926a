"""MediaPipe's landmarks with a stand-in of its package: matched to the face, and never fatal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.errors import CheckpointError, DependencyError
from hallo3.face.landmarks import box_mask, silhouette_box
from hallo3.face.mediapipe import (
    INSTALL,
    TASK_FILENAME,
    MediaPipeLandmarks,
    create_landmark_finder,
    find_task_file,
    get_landmark_version,
)
from hallo3.face.photo import BOX_FALLBACK, FACE_SUBDIRS
from hallo3.geometry import PixelBox
from support.fake_mediapipe import (
    DETECTED,
    PICTURE,
    analyze,
    install_mediapipe,
    make_analyzer,
    make_landmarks,
    make_task_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file())
    return tmp_path / TASK_FILENAME


def check_fallback(folder: Path, *expected: str) -> None:
    """The mask is made of the detector's box, and one note says why."""
    face, notes = analyze(create_landmark_finder(folder))
    assert torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    (note,) = notes
    assert note.startswith(BOX_FALLBACK)
    assert all(text in note for text in expected), note


def check_landmarks(path: Path, box: PixelBox, expected: Tensor) -> None:
    landmarks = create_landmark_finder(path.parent)(PICTURE, replace(DETECTED, box=box))
    assert landmarks is not None
    assert torch.allclose(landmarks, expected, atol=1e-9)


def test_landmarks_are_in_pixels_and_make_the_mask(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, pictures = make_landmarks(105, 50, 195, 178), list[np.ndarray[Any, Any]]()
    library = install_mediapipe(monkeypatch, lambda levels: pictures.append(levels) or [expected])
    check_landmarks(path, DETECTED.box, expected)
    face, notes = analyze(create_landmark_finder(path.parent))
    assert notes == []
    assert torch.equal(face.mask, box_mask(silhouette_box(expected), 300, 400))
    assert not torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert library.content == path.read_bytes()
    assert [landmarker.closed for landmarker in library.landmarkers] == [True, True]
    assert np.abs(pictures[0].transpose(2, 0, 1) / 255 - PICTURE.numpy()).max() <= 0.5 / 255 + 1e-6


def test_of_several_faces_the_detected_one_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = make_landmarks(95, 55, 190, 170), make_landmarks(200, 60, 300, 180)
    broken = make_landmarks(*DETECTED.box)
    broken[300] = float("nan")
    install_mediapipe(monkeypatch, lambda _: [right, broken, left])
    for box, expected in ((DETECTED.box, left), (PixelBox(205, 60, 305, 180), right)):
        check_landmarks(path, box, expected)


@pytest.mark.parametrize(
    ("box", "region"),
    [
        (PixelBox(180, 120, 220, 160), (150, 90, 250, 190)),
        (PixelBox(0, 0, 40, 40), (0, 0, 70, 70)),
        (PixelBox(370, 240, 400, 300), (310, 195, 400, 300)),
    ],
)
def test_a_face_too_small_for_the_whole_picture_is_found_in_a_region(
    path: Path, monkeypatch: pytest.MonkeyPatch, box: PixelBox, region: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = region

    def detect(levels: np.ndarray[Any, Any]) -> list[Tensor]:
        if levels.shape == (300, 400, 3):
            return [make_landmarks(300, 10, 390, 90)]
        assert levels.shape == (bottom - top, right - left, 3)
        return [make_landmarks(box.left - left, box.top - top, box.right - left, box.bottom - top)]

    install_mediapipe(monkeypatch, detect)
    check_landmarks(path, box, make_landmarks(*box))


@pytest.mark.parametrize("faces", [[], [make_landmarks(250, 60, 350, 180)]], ids=["no face", "another face"])
def test_without_landmarks_the_detector_s_box_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, faces: list[Tensor]
) -> None:
    install_mediapipe(monkeypatch, lambda levels: faces if levels.shape[1] == 400 else [])
    check_fallback(path.parent, "MediaPipe finds no face where the detector does")


@pytest.mark.parametrize("place", [*FACE_SUBDIRS, ".."])
@pytest.mark.parametrize("name", [TASK_FILENAME, "face_landmarker.task"])
def test_the_file_is_found_where_archives_put_it_or_beside(tmp_path: Path, place: str, name: str) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    assert find_task_file(folder) is None
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / name).write_bytes(b"not read yet")
    path = find_task_file(folder)
    assert path is not None
    assert path.samefile(folder / place / name)


WHOLE = make_task_file()
FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "is missing"),
    "a folder": (b"folder", "cannot be used"),
    "empty": (b"", "not a complete archive"),
    "a web page": (b"<html>not found</html>", "not a complete archive"),
    "truncated": (WHOLE[:900], "not a complete archive"),
    "changed": (WHOLE.replace(b"numbers of", b"numbers if", 1), "face_detector.tflite: wrong checksum"),
    "another archive": (
        WHOLE.replace(b"face_detector", b"nose_detector"),
        "an archive of face_landmarks_detector.tflite, n",
    ),
}


@pytest.mark.parametrize(("content", "expected"), FILES.values(), ids=FILES.keys())
def test_a_damaged_file_is_refused_before_mediapipe_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, expected: str
) -> None:
    library = install_mediapipe(monkeypatch)
    if content == b"folder":
        (tmp_path / TASK_FILENAME).mkdir()
    elif content is not None:
        (tmp_path / TASK_FILENAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=expected) as error:
        MediaPipeLandmarks(tmp_path / TASK_FILENAME)(PICTURE, DETECTED)
    assert INSTALL not in str(error.value)  # it is installed
    check_fallback(tmp_path, expected)
    assert library.landmarkers == []


ERRORS = [
    ValueError("not a valid Flatbuffer"),
    RuntimeError(""),
    OSError("no"),
    RuntimeError("Out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_mediapipe_s_errors_are_the_file_s_unless_memory_runs_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> list[Tensor]:
        raise error

    install_mediapipe(monkeypatch, fail)
    if "memory" in str(error):
        with pytest.raises(MemoryError):
            make_analyzer(create_landmark_finder(path.parent)).analyze(PICTURE)
    else:
        check_fallback(path.parent, f"{TASK_FILENAME}: {str(error) or 'RuntimeError'}")


def test_without_the_package_the_note_says_how_to_install_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    check_fallback(path.parent, f"Fix: {INSTALL}.")
    path.unlink()
    check_fallback(path.parent, TASK_FILENAME, INSTALL)


PACKAGES = (
    "raise TypeError('Descriptors')",
    "raise SystemError('failed')",
    "__version__ = 'unknown'",
    "pass",
)


@pytest.mark.parametrize("body", PACKAGES)
def test_a_package_that_cannot_be_imported_is_not_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "site" / "mediapipe").mkdir(parents=True)
    (tmp_path / "site" / "mediapipe" / "__init__.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    check_fallback(path.parent, "cannot be imported", f"Fix: {INSTALL}.")
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    assert get_landmark_version(path.parent) is None


def test_the_version_that_decides_the_mask(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("0.10.21", "0.10.30", "0.10.33"):
        install_mediapipe(monkeypatch, version=version)
        assert get_landmark_version(path.parent) == (path, version)
        assert get_landmark_version(path.parent / "elsewhere" / "below") is None


@pytest.mark.parametrize("version", ["0.10.35", "1.2.3", "0.11", "1.0.0rc1"])
def test_versions_that_report_their_use_are_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Seen with strace in a network of its own: 0.10.30 to 0.10.33 open no socket, 0.10.35 and later do."""
    library = install_mediapipe(monkeypatch, lambda _: [make_landmarks(*DETECTED.box)], version)
    with pytest.raises(DependencyError, match=r"makers|imported"):
        create_landmark_finder(path.parent)(PICTURE, DETECTED)
    assert library.landmarkers == []
    assert get_landmark_version(path.parent) is None
