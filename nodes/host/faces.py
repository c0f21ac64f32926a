"""Where ComfyUI's users keep the face analyzer's files, and the analyzer that is made of them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...hallo3.config import FaceConfig
from ...hallo3.face.analysis import FaceAnalyzer
from ...hallo3.face.choosing import Choice
from ...hallo3.face.spaces import analyzer_for
from ...hallo3.weights.places import ModelFolder
from .landmarks import DETECTION_FOLDER, FILE, find_landmarks


def faces_folder() -> Path | None:
    """The folder among ComfyUI's models, as other packs have it, if it is there."""
    return ModelFolder(Path(folder_paths.models_dir)).faces


def files_seen() -> list[tuple[str, int, int]]:
    """Which files there are for faces, and when they changed: others may see another face."""
    folder = faces_folder()
    found = [*folder.rglob("*.onnx"), *folder.rglob("*.task")] if folder is not None else []
    port = (
        folder_paths.get_full_path(DETECTION_FOLDER, FILE)
        if DETECTION_FOLDER in folder_paths.folder_names_and_paths
        else None
    )
    found += [Path(port)] if port else []
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(found)]


def own_analyzer(config: FaceConfig, choice: Choice | None = None) -> FaceAnalyzer:
    """The analyzer of a model's embedding space, with ComfyUI's own way to landmarks for photographs.

    Raises ``FaceError`` when there is none, ``CheckpointError`` when a file is missing.
    """
    folder = faces_folder()
    return analyzer_for(config, folder, landmarks=find_landmarks(folder), choice=choice)
