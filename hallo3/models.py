"""The networks behind their residencies: what a run is handed instead of files and devices."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from torch import nn

from .attention import Watched
from .config import Hallo3Config
from .face.analyzer import FaceAnalyzer
from .model.transformer import Hallo3Transformer, ReferenceNetwork
from .text_encoder import TextEncoder
from .vae.autoencoder import VideoVAE


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Enter a residency to use its network; what a run needs once is let go on exit. ``attention`` is what
    transformer and reference network attend by; it says what ran."""

    config: Hallo3Config
    face: FaceAnalyzer
    speech: AbstractContextManager[nn.Module]
    text: AbstractContextManager[TextEncoder]
    vae: AbstractContextManager[VideoVAE]
    reference: AbstractContextManager[ReferenceNetwork]
    transformer: AbstractContextManager[Hallo3Transformer]
    attention: Watched = field(default_factory=Watched)
