"""How alike two faces are, to an analyzer that knows people apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Hallo3Error
from .analysis import FaceAnalyzer
from .photographs import PhotographAnalyzer

Likeness = Callable[[Tensor], float | None]
"""How alike the face in a frame [3, h, w] in 0..1 and another are; 1 is the same, None: nobody can tell."""


def nobody_can_tell(frame: Tensor) -> None:
    """The likeness of a face that nobody looks at."""
    del frame


def likeness_to(embedding: Tensor, analyzer: FaceAnalyzer) -> Likeness:
    """The likeness of faces to the one with this embedding: the cosine of the angle between the two. A frame
    in which no face is found has none, nor has any if the analyzer cannot run."""
    if analyzer.space == "thumbnail":  # recognises nobody
        return nobody_can_tell
    if isinstance(analyzer, PhotographAnalyzer):  # landmarks are for masks, and take their time
        analyzer = replace(analyzer, landmarks=None)

    def likeness(frame: Tensor) -> float | None:
        with warnings.catch_warnings(), suppress(Hallo3Error):
            warnings.simplefilter("ignore")
            found = analyzer.analyze(frame.cpu()).embedding
            if bool(torch.isfinite(found).all()):
                return float(F.cosine_similarity(found, embedding.to(found)).squeeze())
        return None

    return likeness
