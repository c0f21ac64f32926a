"""Portrait -> identity: what the reference network and the face analyzer extract, once per picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .face.analysis import Face
from .latents import encode_pixels
from .media.canvas import Canvas, fit
from .models import Models
from .noise import Noise, Purpose
from .settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A portrait on the canvas, who is on it, and the reference features of every block [1, R, D]."""

    canvas: Canvas
    face_embedding: Tensor
    reference_features: tuple[Tensor, ...]


def extract_identity(
    portrait: Tensor, face: Face, models: Models, settings: Settings, noise: Noise
) -> Identity:
    """A picture [3, h, w] in 0..1 and the face found in it -> its identity.

    The reference network sees the picture with everything but the face black; the canvas that segments
    start from is unmasked (facts 10).
    """
    shape = models.config.segment.shape
    face_only = fit(portrait * face.mask.to(portrait), shape).pixels
    latents = encode_pixels(face_only, Purpose.IDENTITY_POSTERIOR, 0, models, settings, noise)
    with models.reference as network:
        features = network.features(latents)
    canvas = fit(portrait, shape)
    return Identity(canvas=canvas, face_embedding=face.embedding, reference_features=features)
