"""Several speakers in one picture: whose voice moves which part of it (decision 019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .geometry import PATCH, SPACE_FACTOR, LatentShape, PixelBox
from .messages import logger

MAX_SPEAKERS = 4
SPEAKERS_UNTESTED = "untested on the released weights, which were trained with one"
TRAINED_WITH_SPEAKERS = {"built-in": 2}
"""Most speakers that models have learned, by the name of their configuration."""
HEAD_AND_SHOULDERS = PixelBox(0.5, 0.5, 0.5, 1.0)
"""Room around a face's box that belongs to the person: left, above, right, below, in the face's own size."""
FEATHER = 0.5
"""Tokens: the weights of two speakers are e : 1 where one is nearer by this much. A token from the border
between them it is 98 %."""


def warn_of_speakers(model: str, count: int) -> None:
    """Log what is known of ``count`` speakers with the model named so, unless it has learned that many."""
    learned = TRAINED_WITH_SPEAKERS.get(model, 1)
    if count > learned:
        logger.warning(
            f"{count} speakers are untested with this model, which was trained with {learned}: "
            "mouths may follow the wrong voice"
        )


def make_speaker_masks(faces: Sequence[PixelBox], latent: LatentShape) -> Tensor:
    """Faces on the canvas in pixels, from left to right -> masks [P, 1, rows, columns] in float32.

    Every token belongs to the nearest person, with soft borders, so masks add up to 1 everywhere, the
    background too: models were trained with speech in all of it. Distance is to the edge of head and
    shoulders, negative inside, so that the overlap of two people is divided along its middle.
    """
    size = SPACE_FACTOR * PATCH
    y, x = ((torch.arange(count) + 0.5) * size for count in (latent.rows, latent.columns))
    distances = [_measure_distance(_surround(face), y[:, None], x[None, :]) / size for face in faces]
    return (torch.stack(distances) / -FEATHER).softmax(dim=0)[:, None]


def _surround(face: PixelBox) -> PixelBox:
    """The box of head and shoulders; it may leave the canvas."""
    width, height = face.right - face.left, face.bottom - face.top
    left, above, right, below = HEAD_AND_SHOULDERS
    return PixelBox(
        face.left - left * width,
        face.top - above * height,
        face.right + right * width,
        face.bottom + below * height,
    )


def _measure_distance(box: PixelBox, y: Tensor, x: Tensor) -> Tensor:
    """Of points to the edge of a box, negative inside."""
    across = (x - (box.left + box.right) / 2).abs() - (box.right - box.left) / 2
    down = (y - (box.top + box.bottom) / 2).abs() - (box.bottom - box.top) / 2
    outside = (across.clamp_min(0).square() + down.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(across, down).clamp_max(0)
