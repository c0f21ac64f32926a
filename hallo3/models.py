"""The networks of a model, each in its residency."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from .config import Hallo3Config
from .face.analyzer import FaceAnalyzer
from .model.transformer import Hallo3Transformer, ReferenceNetwork
from .progress import OpenProgress, no_display
from .text_encoder import TextEncoder
from .vae.autoencoder import VideoVAE


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Enter a residency to use its network. ``open_progress`` shows bytes of weights as they are used.
    ``shrink`` is called after memory ran out in a stage, and makes the networks take less from then on
    (``residency.Shrinkable``), in an order of guidance ``passes`` of their own."""

    config: Hallo3Config
    face: FaceAnalyzer
    speech: AbstractContextManager[nn.Module]
    text: AbstractContextManager[TextEncoder]
    vae: AbstractContextManager[VideoVAE]
    reference: AbstractContextManager[ReferenceNetwork]
    transformer: AbstractContextManager[Hallo3Transformer]
    open_progress: OpenProgress = no_display
    shrink: Callable[[Exception, str], bool] = lambda _error, _stage: False
    passes: Callable[[], str] = str
