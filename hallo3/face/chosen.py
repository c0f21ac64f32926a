"""The face that a user means, by whichever analyzer a model was trained with."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from ..config import FaceConfig
from ..errors import FaceError
from .analysis import Face, FaceAnalyzer, analyze
from .choosing import Choice, given_mask
from .landmarks import box_mask
from .photographs import PhotographAnalyzer


def analyze_chosen(picture: Tensor, analyzer: FaceAnalyzer, config: FaceConfig, choice: Choice) -> Face:
    """The face on a picture [3, h, w] in 0..1; a mask or a box that the user gives stands in place of the
    analyzer's. Warns where an analyzer looks for one face only and another was asked for. Errors as of
    :func:`analyze`, and ``FaceError`` for a mask or a box that does not fit."""
    if choice.index and choice.place is not None:
        raise FaceError(
            "There are two answers to which face is meant.",
            found=f"face number {choice.index}, and a place on the portrait",
            expected="one of them",
            do="leave the number at 0, or the box or mask out",
        )
    height, width = picture.shape[1:]
    mask = given_mask(choice, height, width)
    if mask is None and choice.box is not None:
        mask = box_mask(choice.box, height, width)
    if choice.index and not isinstance(analyzer, PhotographAnalyzer):
        warnings.warn("This model's face analyzer looks for one face: its number is not used.", stacklevel=2)
    face = analyze(picture, analyzer, config)
    return face if mask is None else replace(face, mask=mask)
