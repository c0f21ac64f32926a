"""The face analyzer's contract, and a trivial analyzer for random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import FaceConfig
from ..errors import FaceError
from ..geometry import PixelBox


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """The face of a picture. ``mask`` [h, w] is 1 where the reference network may look, else 0; ``embedding``
    [1, E]. For previews: the ``boxes`` of all faces, from left to right, and this one's ``index``. Of several
    speakers: one embedding each, [P, E], and the boxes of these ``people``; the mask shows them all."""

    mask: Tensor
    embedding: Tensor
    boxes: tuple[PixelBox, ...] = ()
    index: int | None = None
    people: tuple[PixelBox, ...] = ()


@runtime_checkable
class FaceAnalyzer(Protocol):
    """Analyzes the face in a picture [3, h, w] in 0..1. ``space`` names its embedding space."""

    @property
    def space(self) -> str: ...

    def analyze(self, picture: Tensor) -> Face: ...


@dataclass(frozen=True, slots=True)
class ThumbnailAnalyzer:
    """The whole picture is the face, and a standardised thumbnail is its embedding. For random weights, which
    have learned no embedding: every code path runs, nothing is recognised."""

    embedding_dim: int
    space: str = "thumbnail"

    def analyze(self, picture: Tensor) -> Face:
        side = int((self.embedding_dim // 3) ** 0.5)
        thumbnail = F.adaptive_avg_pool2d(picture[None], side).flatten(1)
        spread = thumbnail.std(correction=0).clamp_min(1e-3)
        values = (thumbnail - thumbnail.mean()) / spread
        embedding = F.pad(values, (0, self.embedding_dim - values.shape[1]))
        return Face(mask=torch.ones(picture.shape[1:]), embedding=embedding)


@dataclass(frozen=True, slots=True)
class NoFaceAnalyzer:
    """Placeholder if no face analyzer is loaded; ``analyze`` raises ``FaceError``."""

    space: str

    def analyze(self, picture: Tensor) -> Face:
        del picture
        raise FaceError(
            "No face analyzer was loaded.",
            found="models for a saved identity",
            expected="models that can extract one",
            fix="load the models with extract=True",
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
