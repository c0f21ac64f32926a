"""Portrait -> identity: what the reference network and the face analyzer extract, once per picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .face.analysis import Face
from .media.canvas import Canvas, fit
from .shapes import VideoShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A portrait on the canvas, who is on it, and the reference features of every block [1, R, D]."""

    canvas: Canvas
    face_embedding: Tensor
    reference_features: tuple[Tensor, ...]


def extract_identity(
    portrait: Tensor,
    face: Face,
    shape: VideoShape,
    *,
    encode: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], tuple[Tensor, ...]],
) -> Identity:
    """A picture [3, h, w] in 0..1 and the face found in it -> its identity on a canvas of ``shape``.

    The reference network sees the picture with everything but the face black; the canvas that segments
    start from is unmasked (facts 10). ``encode`` makes scaled latents [1, C, 1, h, w] of pixels
    [1, 3, 1, H, W] in -1..1, ``features`` is the reference network on these.
    """
    face_only = fit(portrait * face.mask.to(portrait), shape).pixels
    return Identity(
        canvas=fit(portrait, shape),
        face_embedding=face.embedding,
        reference_features=features(encode(face_only)),
    )
