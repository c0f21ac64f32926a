"""Which analyzer writes in which embedding space."""

from __future__ import annotations

from ..config import FaceConfig
from ..errors import FaceError
from .analysis import FaceAnalyzer, ThumbnailAnalyzer
from .drawn import DrawnFaceAnalyzer


def analyzer_for(config: FaceConfig) -> FaceAnalyzer:
    """The analyzer that writes in the model's embedding space; ``FaceError`` when there is none."""
    if config.space == "thumbnail":
        return ThumbnailAnalyzer(config.embedding_dim)
    if config.space == "drawn-face":
        return DrawnFaceAnalyzer(config.embedding_dim)
    raise FaceError(
        "No face analyzer for this model is available.",
        found="analyzers for the spaces 'thumbnail' and 'drawn-face'",
        expected=f"one that writes {config.embedding_dim} numbers in the space {config.space!r}",
        do="hand in an analyzer of that space, or use a random set; mixing spaces would animate a stranger",
    )
