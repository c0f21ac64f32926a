"""Which analyzer writes in which embedding space."""

from __future__ import annotations

from pathlib import Path

from ..config import FaceConfig
from ..errors import FaceError
from .analysis import FaceAnalyzer, ThumbnailAnalyzer
from .arcface import SPACE
from .choosing import Choice
from .drawn import DrawnFaceAnalyzer
from .mediapipe_landmarks import landmarks_in
from .photographs import FindLandmarks, PhotographAnalyzer


def analyzer_for(
    config: FaceConfig,
    folder: Path | None = None,
    *,
    landmarks: FindLandmarks | None = None,
    choice: Choice | None = None,
) -> FaceAnalyzer:
    """The analyzer that writes in the model's embedding space.

    ``folder`` holds the files of the analyzer of photographs, ``landmarks`` and ``choice`` are for it
    too; the others need none of them. Where no ``landmarks`` finder is given, MediaPipe's package and its
    file in the folder are used if both are there; if not, that is noted of every face. Raises
    ``FaceError`` when there is no analyzer, ``CheckpointError`` when a file is missing.
    """
    if config.space == "thumbnail":
        return ThumbnailAnalyzer(config.embedding_dim)
    if config.space == "drawn-face":
        return DrawnFaceAnalyzer(config.embedding_dim)
    if config.space == SPACE and folder is not None:
        found_by = landmarks or landmarks_in(folder)
        return PhotographAnalyzer.from_folder(folder, landmarks=found_by, choice=choice)
    expected = f"one that writes {config.embedding_dim} numbers in the space {config.space!r}"
    if config.space == SPACE:
        raise FaceError(
            "No face analyzer for this model is available.",
            found="no folder with the files of the analyzer of photographs",
            expected=expected,
            do="name the folder with scrfd_10g_bnkps.onnx and glintr100.onnx (antelopev2)",
        )
    raise FaceError(
        "No face analyzer for this model is available.",
        found=f"analyzers for the spaces 'thumbnail', 'drawn-face' and {SPACE!r}",
        expected=expected,
        do="hand in an analyzer of that space, or use a random set; mixing spaces would animate a stranger",
    )
