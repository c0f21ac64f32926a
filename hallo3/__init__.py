"""Hallo3: a talking portrait from one picture and a recording of speech (arXiv 2412.00733).

Names are imported when first used, so that ``import hallo3`` costs nothing beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Hallo3Error
    from .loading import load_models
    from .media.audio import Recording, read_recording
    from .media.image import read_picture
    from .pipeline import animate, render
    from .settings import Settings, settings_for
    from .speech.preprocess import Listening

__version__ = "0.1.0"

_HOMES = {
    "Hallo3Error": ".errors",
    "Listening": ".speech.preprocess",
    "Recording": ".media.audio",
    "Settings": ".settings",
    "animate": ".pipeline",
    "load_models": ".loading",
    "read_picture": ".media.image",
    "read_recording": ".media.audio",
    "render": ".pipeline",
    "settings_for": ".settings",
}

__all__ = [
    "Hallo3Error",
    "Listening",
    "Recording",
    "Settings",
    "animate",
    "load_models",
    "read_picture",
    "read_recording",
    "render",
    "settings_for",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
