"""MediaPipe's landmarks where its file or package is missing, damaged or another: said, and never fatal."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.errors import CheckpointError, DependencyError
from hallo3.face.mediapipe import (
    INSTALL,
    TASK_FILENAME,
    MediaPipeLandmarks,
    create_landmark_finder,
    get_landmark_version,
)
from hallo3.face.photo import BOX_FALLBACK
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


BROKEN = {
    "missing": (None, "is missing"),
    "empty": (b"", "not a complete archive"),
    "a web page": (b"<html>not found</html>", "not a complete archive"),
    "cut": (task()[:900], "not a complete archive"),
    "changed": (task().replace(b"numbers of", b"numbers if", 1), "face_detector.tflite: wrong checksum"),
    "another archive": (None, "an archive of model.bin"),
}


@pytest.mark.parametrize(("content", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_none_is_refused_before_mediapipe_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, expected: str
) -> None:
    library, path = install_fake(monkeypatch), tmp_path / TASK_FILENAME
    if content is not None:
        path.write_bytes(content)
    elif "archive" in expected:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.bin", b"1")
    with pytest.raises(CheckpointError, match=expected):
        MediaPipeLandmarks(path)(PICTURE, DETECTED)
    face, said = analyze_picture(create_landmark_finder(tmp_path))
    assert torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert len(said) == 1
    assert said[0].startswith(BOX_FALLBACK)
    assert expected in said[0]
    assert INSTALL not in said[0]  # it is installed
    assert library.made == []


def test_a_file_that_may_not_be_read_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / TASK_FILENAME).mkdir()
    with pytest.raises(CheckpointError, match="cannot be used"):
        MediaPipeLandmarks(tmp_path / TASK_FILENAME)(PICTURE, DETECTED)


@pytest.mark.parametrize("error", [ValueError("not a valid Flatbuffer"), RuntimeError(""), OSError("no")])
def test_what_mediapipe_refuses_is_an_error_of_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> list[Tensor]:
        raise error

    install_fake(monkeypatch, fail)
    with pytest.raises(CheckpointError, match=rf"{TASK_FILENAME}: {str(error) or 'RuntimeError'}"):
        create_landmark_finder(file.parent)(PICTURE, DETECTED)
    face, said = analyze_picture(create_landmark_finder(file.parent))
    assert torch.equal(face.mask, make_analyzer(None).analyze(PICTURE).mask)
    assert len(said) == 1


def test_memory_that_runs_out_is_no_fault_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[Tensor]:
        raise RuntimeError("Out of memory")

    install_fake(monkeypatch, fail)
    with pytest.raises(MemoryError):
        make_analyzer(create_landmark_finder(file.parent)).analyze(PICTURE)


def test_without_the_package_the_install_line_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(DependencyError, match=INSTALL):
        create_landmark_finder(file.parent)(PICTURE, DETECTED)
    _, said = analyze_picture(create_landmark_finder(file.parent))
    assert len(said) == 1
    assert said[0].endswith(f"Fix: {INSTALL}.")
    file.unlink()
    _, said = analyze_picture(create_landmark_finder(file.parent))
    assert len(said) == 1
    assert TASK_FILENAME in said[0]
    assert INSTALL in said[0]


@pytest.mark.parametrize(
    "body",
    [
        "raise TypeError('Descriptors cannot be created directly')",
        "raise ImportError('numpy.core.multiarray failed to import')",
        "raise OSError('libGL.so.1')",
        "raise SystemError('initialization failed')",
        "__version__ = 'unknown'",
        "pass",
    ],
)
def test_a_package_that_cannot_be_imported_is_said(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "site" / "mediapipe").mkdir(parents=True)
    (tmp_path / "site" / "mediapipe" / "__init__.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    _, said = analyze_picture(create_landmark_finder(file.parent))
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)
    assert len(said) == 1
    assert "cannot be imported" in said[0]
    assert said[0].endswith(f"Fix: {INSTALL}.")
    assert get_landmark_version(file.parent) is None


@pytest.mark.parametrize("version", ["0.10.35", "1.2.3", "0.11", "1.0.0rc1"])
def test_versions_that_connect_to_their_makers_are_not_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Seen with strace in a network of its own: 0.10.30 to 0.10.33 open no socket, 0.10.35 and later do."""
    library = install_fake(monkeypatch, lambda _: [points(*DETECTED.box)], version)
    with pytest.raises(DependencyError, match=r"makers|imported"):
        create_landmark_finder(file.parent)(PICTURE, DETECTED)
    assert library.made == []
    assert get_landmark_version(file.parent) is None
