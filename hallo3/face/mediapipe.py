"""MediaPipe's landmarks with its own package, an optional extra: the original makes the face mask of them.

Original (facts, face landmarks): FaceLandmarker on single pictures with
``face_landmarker_v2_with_blendshapes.task``; landmarks are shares of the picture's width and height.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError, is_out_of_memory
from ..storage.files import open_regular
from .landmarks import match_landmarks
from .photo import FACE_SUBDIRS, FindLandmarks
from .scrfd import DetectedFace

TASK_FILENAME = "face_landmarker_v2_with_blendshapes.task"
"""As the original publishes it; MediaPipe's own name is ``face_landmarker.task``."""
TASK_PATTERN = "face_landmarker*.task"
NETWORKS = ("face_detector.tflite", "face_landmarks_detector.tflite")
"""Required members of the file, a ZIP archive. MediaPipe does not check its checksums."""
MAX_BYTES = 1 << 26
"""Of a file; the real one has 3.8 million."""
MAX_MEMBERS = 64
MAX_FACES = 16
FIRST_REPORTING_VERSION = (0, 10, 34)
"""From 0.10.35 on mediapipe opens connections to its makers when it runs; from 1.0 on its privacy notice says
that it reports its use. 0.10.33 and earlier open none (0.10.34 was not published)."""
INSTALL = "pip install mediapipe==0.10.31"
"""The last version that brings neither OpenCV nor matplotlib."""


def create_landmark_finder(folder: Path) -> FindLandmarks:
    """A finder with the file in a folder of the face analyzer's files, or beside it. Nothing is read or
    imported before the first face: errors are those of :class:`MediaPipeLandmarks`."""
    return MediaPipeLandmarks(find_task_file(folder) or folder / TASK_FILENAME)


def find_task_file(folder: Path) -> Path | None:
    """MediaPipe's file where antelopev2's may be, or in the folder above."""
    folders = [*(folder / place for place in FACE_SUBDIRS), folder.parent]
    paths = (path for each in folders for path in [each / TASK_FILENAME, *sorted(each.glob(TASK_PATTERN))])
    return next((path for path in paths if path.is_file()), None)


def get_landmark_version(folder: Path) -> tuple[Path, str] | None:
    """The file and the version of mediapipe that decide the mask; None if they cannot be used."""
    path = find_task_file(folder)
    try:
        return None if path is None else (path, str(import_mediapipe().__version__))
    except DependencyError:
        return None


@dataclass(frozen=True)
class MediaPipeLandmarks:
    """Finds the landmarks of faces with the networks in a file."""

    path: Path

    def __call__(self, picture: Tensor, face: DetectedFace) -> Tensor | None:
        """The landmarks [478, 2] in pixels of a face in a picture [3, h, w] in 0..1; None if not found.
        Raises ``CheckpointError`` for a file that is missing, damaged or another, ``DependencyError`` if
        mediapipe is missing, broken or would report its use."""
        content, library = read_task_file(self.path), import_mediapipe()
        try:
            vision, base = library.tasks.vision, library.tasks.BaseOptions
            options = vision.FaceLandmarkerOptions(
                base_options=base(model_asset_buffer=content), num_faces=MAX_FACES
            )
            with vision.FaceLandmarker.create_from_options(options) as landmarker:

                def detect(levels: Tensor) -> list[Tensor]:
                    size = torch.tensor([levels.shape[1], levels.shape[0]], dtype=torch.float64)
                    image = library.Image(image_format=library.ImageFormat.SRGB, data=levels.numpy())
                    return [
                        torch.tensor([(point.x, point.y) for point in points], dtype=torch.float64) * size
                        for points in landmarker.detect(image).face_landmarks
                    ]

                return match_landmarks(picture, face, detect)
        except Exception as error:  # mediapipe's errors have no common base
            if is_out_of_memory(error):
                raise MemoryError(f"{self.path.name}: {error}") from error
            raise CheckpointError(
                "MediaPipe cannot find face landmarks.",
                found=f"{self.path.name}: {_get_first_line(error)}",
                expected="a file that mediapipe runs",
                fix=f"download the file again, or {INSTALL}",
            ) from error


def read_task_file(path: Path) -> bytes:
    """The content of MediaPipe's file. Raises ``CheckpointError`` unless it is complete."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES or content.count(b"PK\1\2") > MAX_MEMBERS:
            raise _task_file_error(path, f"more than {MAX_BYTES:,} bytes or {MAX_MEMBERS} members")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (size := sum(each.file_size for each in archive.infolist())) > MAX_BYTES:
                raise _task_file_error(path, f"an archive of {size:,} bytes unpacked")
            if any(each.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for each in archive.infolist()):
                raise _task_file_error(path, "an archive that is packed in another way")
            names, damaged = set(archive.namelist()), archive.testzip()
    except FileNotFoundError as error:
        raise CheckpointError(
            "MediaPipe's face landmarks need a file that is missing.",
            found=f"no file {path}",
            expected=TASK_FILENAME,
            fix="take it from face_analysis/models of fudan-generative-ai/hallo3 on huggingface.co, or "
            "face_landmarker.task from MediaPipe's pages, and put it there"
            + ("" if sys.modules.get("mediapipe") or find_spec("mediapipe") else f"; and {INSTALL}"),
        ) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, ArithmeticError, *_BROKEN) as error:
        raise _task_file_error(path, f"not a complete archive ({error})") from error
    if damaged is not None:
        raise _task_file_error(path, f"{damaged}: wrong checksum")
    if not names.issuperset(NETWORKS):
        raise _task_file_error(path, f"an archive of {', '.join(sorted(names)[:5])}")
    return content


_BROKEN = (RuntimeError, ValueError, EOFError, OSError)  # of zipfile, beside its own errors


def _task_file_error(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "MediaPipe's file of face landmarks cannot be used.",
        found=f"{path.name}: {found}",
        expected=f"an archive with {' and '.join(NETWORKS)}, of at most {MAX_BYTES:,} bytes unpacked",
        fix=f"download {TASK_FILENAME} again",
    )


def import_mediapipe() -> Any:
    """Raises ``DependencyError`` if the package is missing, broken or reports its use."""
    try:
        library = import_module("mediapipe")
        version = tuple(int(number) for number in str(library.__version__).split(".")[:3])
    except Exception as error:  # of any kind if the versions of its own libraries do not fit
        raise DependencyError(
            "MediaPipe's face landmarks need a library that is not installed or cannot be imported.",
            found=_get_first_line(error),
            expected="mediapipe 0.10, up to 0.10.33",
            fix=INSTALL,
        ) from error
    if version >= FIRST_REPORTING_VERSION:
        raise DependencyError(
            "The installed mediapipe connects to its makers when it runs, and is not used.",
            found=f"mediapipe {library.__version__}",
            expected="a version up to 0.10.33, which opens no connections",
            fix=INSTALL,
        )
    return library


def _get_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
