"""Hallo3: a talking portrait from one picture and a recording of speech (arXiv 2412.00733).

Names are imported when first used, so that ``import hallo3`` costs nothing beyond torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callables import render_with_callables as render
    from .errors import (
        AudioError,
        CheckpointError,
        DependencyError,
        FaceError,
        Hallo3Error,
        InputError,
        OutputError,
        PortraitError,
        ShapeError,
    )
    from .loading import load_models
    from .media.audio import Recording, read_recording
    from .media.image import read_picture
    from .pipeline import animate
    from .settings import Settings, settings_for
    from .speech.preprocess import SpeechPreprocessing as Listening

    __version__: str

_ERRORS = (
    "AudioError",
    "CheckpointError",
    "DependencyError",
    "FaceError",
    "Hallo3Error",
    "InputError",
    "OutputError",
    "PortraitError",
    "ShapeError",
)
_HOMES = {
    "__version__": ".version.VERSION",
    **{name: f".errors.{name}" for name in _ERRORS},
    "Listening": ".speech.preprocess.SpeechPreprocessing",
    "Recording": ".media.audio.Recording",
    "Settings": ".settings.Settings",
    "animate": ".pipeline.animate",
    "load_models": ".loading.load_models",
    "read_picture": ".media.image.read_picture",
    "read_recording": ".media.audio.read_recording",
    "render": ".callables.render_with_callables",
    "settings_for": ".settings.settings_for",
}

__all__ = [
    "AudioError",
    "CheckpointError",
    "DependencyError",
    "FaceError",
    "Hallo3Error",
    "InputError",
    "Listening",
    "OutputError",
    "PortraitError",
    "Recording",
    "Settings",
    "ShapeError",
    "animate",
    "load_models",
    "read_picture",
    "read_recording",
    "render",
    "settings_for",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].rpartition(".")
        return getattr(import_module(module, __name__), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
