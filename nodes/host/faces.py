"""Where ComfyUI's users keep the face analyzer's files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...hallo3.weights.places import ModelFolder


def faces_folder() -> Path | None:
    """The folder among ComfyUI's models, as other packs have it, if it is there."""
    return ModelFolder(Path(folder_paths.models_dir)).faces
