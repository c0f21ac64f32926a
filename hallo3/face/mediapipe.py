"""MediaPipe's landmarks by its own package, an optional extra: what the original makes the face mask of.

Original (facts, face landmarks): FaceLandmarker on single pictures with
``face_landmarker_v2_with_blendshapes.task``; landmarks are shares of the picture's width and height.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError, Hallo3Error, is_out_of_memory
from .landmarks import landmarks_near
from .photo import PLACES, FindLandmarks
from .scrfd import DetectedFace

FILE = "face_landmarker_v2_with_blendshapes.task"
"""As the original publishes it; MediaPipe's own name is ``face_landmarker.task``."""
PATTERN = "face_landmarker*.task"
NETWORKS = ("face_detector.tflite", "face_landmarks_detector.tflite")
"""What must be in the file. It is a ZIP archive; MediaPipe itself does not compare its checksums."""
LARGEST = 1 << 26
"""Bytes of a file that are read at most; the real one has 3.8 million."""
MOST = 16
"""Faces that are looked at on a picture."""
REPORTING = (0, 10, 34)
"""From 0.10.35 on mediapipe connects to its makers when it runs; from 1.0 on its privacy notice says that it
sends figures about its use. Up to 0.10.33 it connects to nobody (0.10.34 was not published)."""
INSTALL = "pip install mediapipe==0.10.31"
"""The last version that brings neither OpenCV nor matplotlib."""
WHERE = (
    "take it from face_analysis/models of fudan-generative-ai/hallo3 on huggingface.co, or "
    "face_landmarker.task from MediaPipe's pages, and put it there"
)


def landmarks_in(folder: Path) -> FindLandmarks:
    """What finds MediaPipe's landmarks with the file in a folder of the face analyzer's files, or beside it.

    Nothing is read or imported before a face is asked for: what is missing is said then, by the errors of
    :class:`MediaPipeLandmarks`.
    """
    return MediaPipeLandmarks(task_file(folder) or folder / FILE)


def task_file(folder: Path) -> Path | None:
    """MediaPipe's file where antelopev2's may lie, or in the folder above; None if it is in neither."""
    places = [*(folder / place for place in PLACES), folder.parent]
    found = (path for place in places for path in [place / FILE, *sorted(place.glob(PATTERN))])
    return next((path for path in found if path.is_file()), None)


def in_use(folder: Path) -> tuple[Path, str] | None:
    """The file that landmarks are found with, and the version of mediapipe; None where it cannot be used and
    the detector's box stands in. For whoever must know what decides the mask."""
    file = task_file(folder)
    try:
        return None if file is None else (file, str(_library().__version__))
    except DependencyError:
        return None


@dataclass(frozen=True)
class MediaPipeLandmarks:
    """Finds the landmarks of faces with the networks in a file."""

    path: Path

    def __call__(self, picture: Tensor, face: DetectedFace) -> Tensor | None:
        """The landmarks [478, 2] in pixels of a face on a picture [3, h, w] in 0..1; None if none are found.

        Raises ``CheckpointError`` for a file that is missing, damaged or another, ``DependencyError`` when
        mediapipe is not installed, cannot be imported or would send figures about its use.
        """
        content = read_task(self.path)
        with _landmarker(_library(), content, self.path) as (library, landmarker):
            return landmarks_near(picture, face, partial(_look_for, library, landmarker))


def read_task(path: Path) -> bytes:
    """The content of MediaPipe's file, if its checksums are right and the networks are in it.

    Raises ``CheckpointError``.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise _refused(path, f"{path.stat().st_size} bytes", f"at most {LARGEST} bytes")
        content = path.read_bytes()
    except FileNotFoundError as error:
        also = "" if _is_installed() else f"; and {INSTALL}"
        raise CheckpointError(
            "MediaPipe's face landmarks need a file that is missing.",
            found=f"no file {path}",
            expected=FILE,
            fix=WHERE + also,
        ) from error
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__, "a file that may be read") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names, damaged = set(archive.namelist()), archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _refused(
            path, f"{len(content)} bytes, no whole archive ({error})", "MediaPipe's file"
        ) from error
    if damaged is not None or not names.issuperset(NETWORKS):
        found = f"{damaged}: wrong checksum" if damaged else f"an archive of {', '.join(sorted(names)[:5])}"
        raise _refused(path, found, f"an archive with {' and '.join(NETWORKS)}, undamaged")
    return content


def _library() -> Any:
    """MediaPipe's package. Raises ``DependencyError`` if it is missing, broken or sends figures home."""
    try:
        library = import_module("mediapipe")
        version = tuple(int(number) for number in str(library.__version__).split(".")[:3])
    except Exception as error:  # of any kind where the versions of its own libraries do not fit
        raise DependencyError(
            "MediaPipe's face landmarks need a library that is not installed or cannot be imported.",
            found=_first_line(error),
            expected="mediapipe 0.10, up to 0.10.33",
            fix=INSTALL,
        ) from error
    if version >= REPORTING:
        raise DependencyError(
            "The installed mediapipe connects to its makers when it runs, and is not used.",
            found=f"mediapipe {library.__version__}",
            expected="a version up to 0.10.33, which connects to nobody",
            fix=INSTALL,
        )
    return library


@contextmanager
def _landmarker(library: Any, content: bytes, path: Path) -> Generator[tuple[Any, Any]]:
    """MediaPipe's landmarker for single pictures, at its own thresholds as in the original."""
    try:
        vision, base = library.tasks.vision, library.tasks.BaseOptions
        options = vision.FaceLandmarkerOptions(base_options=base(model_asset_buffer=content), num_faces=MOST)
        with vision.FaceLandmarker.create_from_options(options) as landmarker:
            yield library, landmarker
    except Hallo3Error:
        raise
    except Exception as error:  # mediapipe's errors have no common base
        if is_out_of_memory(error):
            raise MemoryError(f"{path.name}: {error}") from error
        raise CheckpointError(
            "MediaPipe's face landmarks cannot be found.",
            found=f"{path.name}: {_first_line(error)}",
            expected="a file that mediapipe runs",
            fix=f"download the file again, or {INSTALL}",
        ) from error


def _look_for(library: Any, landmarker: Any, levels: Tensor) -> list[Tensor]:
    height, width = levels.shape[:2]
    seen = landmarker.detect(library.Image(image_format=library.ImageFormat.SRGB, data=levels.numpy()))
    size = torch.tensor([width, height], dtype=torch.float64)
    return [
        torch.tensor([(point.x, point.y) for point in face], dtype=torch.float64) * size
        for face in seen.face_landmarks
    ]


def _is_installed() -> bool:
    try:
        return find_spec("mediapipe") is not None
    except ValueError:  # imported by something that did not say from where
        return True


def _refused(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "MediaPipe's file of face landmarks cannot be used.",
        found=f"{path.name}: {found}",
        expected=expected,
        fix=f"download {FILE} again",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
