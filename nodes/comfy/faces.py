"""Identity files, and the face analyzer with landmarks by ComfyUI's own MediaPipe port.

The port (ComfyUI 0.33: ``comfy_extras/nodes_mediapipe.py``) reads ``mediapipe_face_fp32.safetensors``
(5.4 MB) in ``models/detection``, which ComfyUI does not download. We use only the object that its loader
node creates, and that object's ``detect_batch``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import folder_paths
import torch
from torch import Tensor

from ...hallo3.checkpoints.tensor_file import TensorFile
from ...hallo3.config import FaceConfig
from ...hallo3.errors import CheckpointError, is_out_of_memory
from ...hallo3.face.analyzer import FaceAnalyzer
from ...hallo3.face.landmarks import match_landmarks
from ...hallo3.face.mediapipe import create_landmark_finder, find_task_file
from ...hallo3.face.photo import FACE_DIRS, FindLandmarks
from ...hallo3.face.registry import create_analyzer
from ...hallo3.face.scrfd import DetectedFace
from ...hallo3.face.selection import FaceChoice
from ...hallo3.identity_file import IDENTITY_SUFFIX
from .places import find_faces
from .workflow import file_state

IDENTITY_FOLDER = "hallo3_identities"
"""In ComfyUI's output folder for saved identities, in its input folder for others."""
OUTPUT_SUFFIX = " [output]"
"""ComfyUI's mark of a file in its output folder."""


def list_identities() -> list[str]:
    """Names of the identity files as ComfyUI writes them, those in the output folder first."""
    roots = (folder_paths.get_output_directory(), OUTPUT_SUFFIX), (folder_paths.get_input_directory(), "")
    names: list[str] = []
    for root, suffix in roots:
        files = sorted((Path(root) / IDENTITY_FOLDER).rglob(f"*{IDENTITY_SUFFIX}"))
        names += [f"{file.relative_to(root).as_posix()}{suffix}" for file in files if file.is_file()]
    return names


def find_identity(name: object) -> Path | None:
    """The existing file of a name, inside ComfyUI's folders only; None for anything else."""
    if not isinstance(name, str):
        return None
    folder = folder_paths.get_input_directory()
    if name.endswith(OUTPUT_SUFFIX):
        folder, name = folder_paths.get_output_directory(), name.removesuffix(OUTPUT_SUFFIX)
    root = Path(folder).resolve()
    with suppress(OSError, ValueError):  # not a file name on this system
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    return None


DETECTION_FOLDER, PORT_FILENAME = "detection", "mediapipe_face_fp32.safetensors"
DETECTOR = "short"
"""The detector of MediaPipe's own file."""
PORT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Raised if a file does not fit the port, or if the port has changed."""


def find_landmarks(folder: Path | None = None) -> FindLandmarks | None:
    """The landmark finder that works here, not loaded yet: the port with its model; else the package with the
    original's file in ``folder``; else one that reports the missing file. None without port and folder."""
    try:
        create = import_module("comfy_extras.nodes_mediapipe").FaceLandmarkerModel
    except (ImportError, AttributeError):
        create = None
    if create is not None and (model := _find_model()) is not None:
        return PortLandmarks(model, create)
    if folder is not None and (create is None or find_task_file(folder) is not None):
        return create_landmark_finder(folder)
    return None if create is None else _report_missing_model


@dataclass(frozen=True)
class PortLandmarks:
    """Finds landmarks with the port's networks in a ``model`` file; ``create`` makes the port's detector of
    its tensors."""

    model: Path
    create: Callable[[dict[str, Tensor]], Any]

    def __call__(self, picture: Tensor, face: DetectedFace) -> Tensor | None:
        """Landmarks [478, 2] in pixels of a face on a picture [3, h, w] in 0..1, or None. Raises
        ``CheckpointError`` for a damaged or other file, or a changed port."""
        with TensorFile(self.model) as file:
            state = {name: file.read(name) for name in file.entries}
        try:
            with torch.inference_mode():
                landmarks = match_landmarks(picture, face, partial(_detect_landmarks, self._load_port(state)))
            return None if landmarks is None else landmarks.clone()
        except PORT_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise self._error(f"{type(error).__name__}: {error}") from error

    def _load_port(self, state: dict[str, Tensor]) -> Any:
        """Refuses a file that lacks tensors: the port would use random ones."""
        names, port = set(state), self.create(state)
        prefixes = {"mesh.": "mesh.", "detector.": f"detector_{DETECTOR}."}
        missing = [
            name
            for name in port.models[DETECTOR].state_dict()
            for ours, theirs in prefixes.items()
            if name.startswith(ours) and theirs + name.removeprefix(ours) not in names
        ]
        if missing:
            raise self._error(f"{len(missing)} tensors are missing, the first is {missing[0]}")
        return port

    def _error(self, found: str) -> CheckpointError:
        return CheckpointError(
            "ComfyUI's MediaPipe port cannot find face landmarks.",
            found=f"{self.model.name}: {found}",
            expected=f"{PORT_FILENAME}, as published for ComfyUI's own MediaPipe nodes",
            fix="download the file again, or update ComfyUI",
        )


def _find_model() -> Path | None:
    """The port's file among ComfyUI's models: the published one, or the first with a similar name."""
    if DETECTION_FOLDER not in folder_paths.folder_names_and_paths:
        return None
    names = [str(name) for name in folder_paths.get_filename_list(DETECTION_FOLDER)]
    similar = [name for name in names if all(w in Path(name).name.lower() for w in ("mediapipe", "face"))]
    similar.sort(key=lambda name: Path(name).name != PORT_FILENAME)
    path = folder_paths.get_full_path(DETECTION_FOLDER, similar[0]) if similar else None
    return None if path is None else Path(path)


def _detect_landmarks(port: Any, levels: Tensor) -> list[Tensor]:
    faces = port.detect_batch([levels.numpy()], num_faces=0, score_thresh=0.5, variant=DETECTOR)[0]
    # MediaPipe drops faces below a presence of one half, which is 0 here.
    return [torch.as_tensor(face["landmarks_xy"]).double() for face in faces if face["presence"] >= 0]


def _report_missing_model(picture: Tensor, face: DetectedFace) -> NoReturn:
    del picture, face
    raise CheckpointError(
        "MediaPipe's face landmarks need a model file that is missing.",
        found=f"no {PORT_FILENAME} in ComfyUI's models/{DETECTION_FOLDER}",
        expected="the file of ComfyUI's own MediaPipe nodes (5.4 MB, Apache 2.0)",
        fix="download it from detection of Comfy-Org/mediapipe on huggingface.co into models/"
        + DETECTION_FOLDER,
    )


def face_file_states() -> list[list[Any]]:
    """Path and state of every file that face analysis depends on."""
    folder, model = find_faces(), _find_model()
    files = [*folder.rglob("*.onnx"), *folder.rglob("*.task")] if folder is not None else []
    files += [model] if model else []
    return [[str(path), *file_state(path)] for path in sorted(files)]


def create_face_analyzer(
    config: FaceConfig, choice: FaceChoice | None = None, *, unverified: bool = False
) -> FaceAnalyzer:
    """The analyzer of a model's embedding space; on photographs, with the landmarks available in ComfyUI.

    Raises ``FaceError`` without an analyzer for the space, ``CheckpointError`` if a file is missing.
    """
    folder = find_faces() or Path(folder_paths.models_dir) / FACE_DIRS[0]
    return create_analyzer(
        config, folder, landmarks=find_landmarks(folder), choice=choice, unverified=unverified
    )
