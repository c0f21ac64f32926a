"""Which analyzer writes in which embedding space."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import FaceConfig
from ..errors import FaceError, Hallo3Error
from ..messages import logger, redirect_messages
from .analyzer import Face, FaceAnalyzer, ThumbnailAnalyzer, analyze_portrait
from .arcface import SPACE
from .drawn import DrawnFaceAnalyzer
from .landmarks import box_mask
from .mediapipe import landmarks_in
from .photo import FindLandmarks, PhotographAnalyzer
from .selection import FaceChoice, given_mask


def analyze_face(picture: Tensor, analyzer: FaceAnalyzer, config: FaceConfig, choice: FaceChoice) -> Face:
    """The face on a picture [3, h, w] in 0..1; a mask or a box that the user gives stands in place of the
    analyzer's. Warns where an analyzer looks for one face only and another was asked for. Errors as of
    :func:`analyze`, and ``FaceError`` for a mask or a box that does not fit."""
    if choice.index and choice.place is not None:
        raise FaceError(
            "There are two answers to which face is meant.",
            found=f"face number {choice.index}, and a place on the portrait",
            expected="one of them",
            fix="leave the number at 0, or the box or mask out",
        )
    height, width = picture.shape[1:]
    mask = given_mask(choice, height, width)
    if mask is None and choice.box is not None:
        mask = box_mask(choice.box, height, width)
    if choice.index and not isinstance(analyzer, PhotographAnalyzer):
        logger.warning("This model's face analyzer looks for one face: its number is not used.")
    face = analyze_portrait(picture, analyzer, config)
    return face if mask is None else replace(face, mask=mask)


SimilarityFunction = Callable[[Tensor], float | None]
"""How alike the face in a frame [3, h, w] in 0..1 and another are; 1 is the same, None: nobody can tell."""


def unknown_similarity(frame: Tensor) -> None:
    """The likeness of a face that nobody looks at."""
    del frame


def similarity_to(embedding: Tensor, analyzer: FaceAnalyzer) -> SimilarityFunction:
    """The likeness of faces to the one with this embedding: the cosine of the angle between the two. A frame
    in which no face is found has none, nor has any if the analyzer cannot run."""
    if analyzer.space == "thumbnail":  # recognises nobody
        return unknown_similarity
    if isinstance(analyzer, PhotographAnalyzer):  # landmarks are for masks, and take their time
        analyzer = replace(analyzer, landmarks=None)

    def likeness(frame: Tensor) -> float | None:
        with redirect_messages(lambda _: None), suppress(Hallo3Error):
            found = analyzer.analyze(frame.cpu()).embedding
            if bool(torch.isfinite(found).all()):
                return float(F.cosine_similarity(found, embedding.to(found)).squeeze())
        return None

    return likeness


def create_analyzer(
    config: FaceConfig,
    folder: Path | None = None,
    *,
    landmarks: FindLandmarks | None = None,
    choice: FaceChoice | None = None,
    unverified: bool = False,
) -> FaceAnalyzer:
    """The analyzer that writes in the model's embedding space.

    ``folder`` holds the files of the analyzer of photographs, ``landmarks`` and ``choice`` are for it
    too; the others need none of them. Where no ``landmarks`` finder is given, MediaPipe's package and its
    file in the folder are used if both are there; if not, that is noted of every face. With
    ``unverified`` its networks need not be the published files. Raises ``FaceError`` when there is no
    analyzer, ``CheckpointError`` when a file is missing.
    """
    if config.space == "thumbnail":
        return ThumbnailAnalyzer(config.embedding_dim)
    if config.space == "drawn-face":
        return DrawnFaceAnalyzer(config.embedding_dim)
    if config.space == SPACE and folder is not None:
        found_by = landmarks or landmarks_in(folder)
        return PhotographAnalyzer.from_folder(
            folder, landmarks=found_by, choice=choice, unverified=unverified
        )
    expected = f"one that writes {config.embedding_dim} numbers in the space {config.space!r}"
    if config.space == SPACE:
        raise FaceError(
            "No face analyzer for this model is available.",
            found="no folder with the files of the analyzer of photographs",
            expected=expected,
            fix="name the folder with scrfd_10g_bnkps.onnx and glintr100.onnx (antelopev2)",
        )
    raise FaceError(
        "No face analyzer for this model is available.",
        found=f"analyzers for the spaces 'thumbnail', 'drawn-face' and {SPACE!r}",
        expected=expected,
        fix="hand in an analyzer of that space, or use a random set; mixing spaces would animate a stranger",
    )
