"""The networks behind their residencies: what a run is handed instead of files and devices."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from torch import nn

from .config import Hallo3Config
from .face.analysis import FaceAnalyzer
from .model.reference import ReferenceNetwork
from .model.transformer import Hallo3Transformer
from .text.encoder import TextEncoder
from .vae.codec import VideoVAE
from .watched import Watched


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
