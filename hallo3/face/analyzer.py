"""The face analyzer's contract, and trivial analyzers: for random weights, and where none is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

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
