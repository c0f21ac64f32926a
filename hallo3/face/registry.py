"""The face analyzer of each embedding space, and the similarity of faces."""

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
from .analyzer import Face, FaceAnalyzer, ThumbnailAnalyzer
from .arcface import ARCFACE_SPACE, RECOGNIZER_FILENAME
from .drawn import DrawnFaceAnalyzer
from .mediapipe import create_landmark_finder
from .photo import FindLandmarks, PhotographAnalyzer
from .scrfd import DETECTOR_FILENAME
from .selection import FaceChoice


def create_analyzer(
    config: FaceConfig,
    folder: Path | None = None,
    *,
    landmarks: FindLandmarks | None = None,
    choice: FaceChoice | None = None,
    unverified: bool = False,
) -> FaceAnalyzer:
    """The analyzer of the model's embedding space. For photographs: ``folder`` has the analyzer's files;
    without ``landmarks``, MediaPipe's package and its file in the folder are used if available; with
    ``unverified`` its networks need not be the published files. Raises ``FaceError`` if there is no analyzer,
    ``CheckpointError`` if a file is missing."""
    if config.space == "thumbnail":
        return ThumbnailAnalyzer(config.embedding_dim)
    if config.space == "drawn-face":
        return DrawnFaceAnalyzer(config.embedding_dim, choice or FaceChoice())
    if config.space == ARCFACE_SPACE and folder is not None:
        finder = landmarks or create_landmark_finder(folder)
        return PhotographAnalyzer.from_folder(folder, landmarks=finder, choice=choice, unverified=unverified)
    is_missing = config.space == ARCFACE_SPACE
    raise FaceError(
        "No face analyzer for this model is available.",
        found="no folder with the files of the analyzer of photographs"
        if is_missing
        else f"analyzers for the spaces 'thumbnail', 'drawn-face' and {ARCFACE_SPACE!r}",
        expected=f"an analyzer of {config.embedding_dim} numbers in the space {config.space!r}",
        fix=f"name the folder with {DETECTOR_FILENAME} and {RECOGNIZER_FILENAME} (antelopev2)"
        if is_missing
        else "pass an analyzer of that space; another space would animate a stranger",
    )


def analyze_portrait(picture: Tensor, analyzer: FaceAnalyzer, config: FaceConfig) -> Face:
    """The face in a picture, in the embedding space that the model was trained in. Raises ``FaceError`` for
    another space or size, or an embedding that is not finite."""
    if analyzer.space != config.space:
        raise FaceError(
            "This face analyzer does not belong to this model.",
            found=f"embeddings in the space {analyzer.space!r}",
            expected=f"the space {config.space!r}",
            fix="use the analyzer the model was trained with",
        )
    face = analyzer.analyze(picture)
    shape, is_finite = tuple(face.embedding.shape), bool(face.embedding.isfinite().all())
    if shape != (1, config.embedding_dim) or not is_finite or face.mask.shape != picture.shape[1:]:
        raise FaceError(
            "The face analyzer's result cannot be used.",
            found=f"an embedding {list(shape)}, finite: {is_finite}, and a mask {list(face.mask.shape)}",
            expected=f"[1, {config.embedding_dim}] finite numbers, and a mask {list(picture.shape[1:])}",
            fix="try another picture of the person, or check the analyzer's model files",
        )
    return face


def analyze_face(picture: Tensor, analyzer: FaceAnalyzer, config: FaceConfig, choice: FaceChoice) -> Face:
    """The face in a picture [3, h, w] in 0..1, with the mask or box of the choice in place of the analyzer's.
    Errors as of :func:`analyze_portrait`, and ``FaceError`` for a mask or a box that does not fit."""
    if choice.index and choice.place is not None:
        raise FaceError(
            "Choose a face either by its number or by its place.",
            found=f"face number {choice.index}, and a place in the portrait",
            expected="one of them",
            fix="set the number to 0, or remove the box or mask",
        )
    mask = choice.make_mask(*picture.shape[1:])
    if choice.index and not isinstance(analyzer, PhotographAnalyzer | DrawnFaceAnalyzer):
        logger.warning("This model's face analyzer detects one face: its number is not used.")
    face = analyze_portrait(picture, analyzer, config)
    return face if mask is None else replace(face, mask=mask)


SimilarityFunction = Callable[[Tensor], float | None]
"""Similarity of the face in a frame [3, h, w] in 0..1 to another; 1 is the same, None is unknown."""


def unknown_similarity(frame: Tensor) -> None:
    """Without an analyzer every similarity is unknown."""
    del frame


def similarity_to(embedding: Tensor, analyzer: FaceAnalyzer) -> SimilarityFunction:
    """Cosine similarity to ``embedding``; unknown without a face, or if the analyzer cannot run."""
    if analyzer.space == "thumbnail":  # does not recognise faces
        return unknown_similarity
    if isinstance(analyzer, PhotographAnalyzer):  # landmarks are for masks, and slow
        analyzer = replace(analyzer, landmarks=None)

    def measure_similarity(frame: Tensor) -> float | None:
        with redirect_messages(lambda _: None), suppress(Hallo3Error):
            other = analyzer.analyze(frame.cpu()).embedding
            if bool(torch.isfinite(other).all()):
                return float(F.cosine_similarity(other, embedding.to(other)).squeeze())
        return None

    return measure_similarity
