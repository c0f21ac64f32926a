"""Vocals of a recording, by the separator's file among ComfyUI's models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.utils
import folder_paths
from torch import Tensor

from ...hallo3.audio.vocals import Separator
from ...hallo3.media.sound import Recording
from ...hallo3.voice import voice_of
from ...hallo3.weights.places import VOCALS, ModelFolder

VOCALS_STEPS = 1000


def file_seen() -> list[Any] | None:
    """The separator's file and when it changed, None if there is none."""
    path = ModelFolder(Path(folder_paths.models_dir)).vocals
    return None if path is None else [str(path), path.stat().st_mtime_ns, path.stat().st_size]


def vocals_of(recording: Recording, sample_rate: int) -> Tensor:
    """The recording without its music, mono [samples] at a rate; ComfyUI can stop it after every window.

    Raises ``CheckpointError`` where the file is missing or another, ``DependencyError`` without onnxruntime,
    ``AudioError`` for a recording that cannot be used.
    """
    models = ModelFolder(Path(folder_paths.models_dir))
    bar = comfy.utils.ProgressBar(VOCALS_STEPS)

    def watch(done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(VOCALS_STEPS * done // max(1, total))

    separator = Separator(models.vocals or models.path / VOCALS[0])
    return voice_of(recording, sample_rate, separator, watch)
