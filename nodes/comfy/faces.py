"""Landmarks for the face mask by ComfyUI's own MediaPipe port, where this ComfyUI has it and its model.

ComfyUI 0.33: ``comfy_extras/nodes_mediapipe.py``. Its file, ``mediapipe_face_fp32.safetensors`` (5.4 MB),
lies in ``models/detection``; ComfyUI does not download it. All that is used of the port is the object
that its loader node makes, and that object's ``detect_batch``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import folder_paths
import torch
from torch import Tensor

from ...hallo3.checkpoints.locate import ModelFolder
from ...hallo3.checkpoints.tensor_file import TensorFile
from ...hallo3.config import FaceConfig
from ...hallo3.errors import CheckpointError, is_out_of_memory
from ...hallo3.face.analyzer import FaceAnalyzer
from ...hallo3.face.landmarks import match_landmarks
from ...hallo3.face.mediapipe import create_landmark_finder, find_task_file
from ...hallo3.face.photo import FindLandmarks
from ...hallo3.face.registry import create_analyzer
from ...hallo3.face.scrfd import DetectedFace
from ...hallo3.face.selection import FaceChoice
from ...hallo3.identity_file import IDENTITY_SUFFIX

IDENTITY_FOLDER = "hallo3_identities"
"""In ComfyUI's output folder, where they are saved, and in its input folder, where others are put."""
OUTPUT = " [output]"
"""What ComfyUI writes behind the name of a file in its output folder."""


def identities() -> list[str]:
    """Names of what is there, as ComfyUI writes them; those in the output folder first."""
    places = (folder_paths.get_output_directory(), OUTPUT), (folder_paths.get_input_directory(), "")
    found: list[str] = []
    for root, ending in places:
        files = sorted((Path(root) / IDENTITY_FOLDER).rglob(f"*{IDENTITY_SUFFIX}"))
        found += [f"{file.relative_to(root).as_posix()}{ending}" for file in files if file.is_file()]
    return found


def path_of(name: str) -> Path | None:
    """The file of a name, if it is there and inside of ComfyUI's folders."""
    inside = folder_paths.get_input_directory()
    if name.endswith(OUTPUT):
        inside, name = folder_paths.get_output_directory(), name.removesuffix(OUTPUT)
    root = Path(inside).resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None


DETECTION_FOLDER, FILE = "detection", "mediapipe_face_fp32.safetensors"
KNOWN = ("mediapipe", "face")
"""What the name of such a file holds, if it is not the published one."""
SURE = 0.5
"""A score from which on MediaPipe takes a face for one, as in the original."""
RANGE = "short"
"""The detector that MediaPipe's own file has."""
CHANGED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What is raised where a file does not fit the port, or the port is not as it was."""


def find_landmarks(folder: Path | None = None) -> FindLandmarks | None:
    """What finds MediaPipe's landmarks here: the port with its model; without the model the package with the
    original's file in ``folder``, where that is there; else something that says what is missing when a face
    is asked for. None for a ComfyUI without the port and no folder.

    Nothing is loaded before a face is asked for.
    """
    make = _port()
    model = _model() if make is not None else None
    if make is not None and model is not None:
        return PortLandmarks(model, make)
    if folder is not None and (make is None or find_task_file(folder) is not None):
        return create_landmark_finder(folder)
    return None if make is None else _without_model


@dataclass(frozen=True)
class PortLandmarks:
    """Finds landmarks with the networks in a ``model`` file; ``make`` is ComfyUI's, and makes of its tensors
    the object that detects faces."""

    model: Path
    make: Callable[[dict[str, Tensor]], Any]

    def __call__(self, picture: Tensor, face: DetectedFace) -> Tensor | None:
        """The landmarks [478, 2] in pixels of a face on a picture [3, h, w] in 0..1; None if none are found.

        Raises ``CheckpointError`` for a damaged or other file, and where the port is another than it was.
        """
        with TensorFile(self.model) as file:
            state = {name: file.read(name) for name in file.entries}
        try:
            with torch.inference_mode():
                found = match_landmarks(picture, face, partial(_look_for, self._loaded(state)))
            return None if found is None else found.clone()
        except CHANGED as error:
            if is_out_of_memory(error):
                raise
            raise _other(self.model, f"{type(error).__name__}: {error}") from error

    def _loaded(self, state: dict[str, Tensor]) -> Any:
        """The port's object. Refuses a file that lacks tensors: the port would use random ones."""
        there = set(state)
        port = self.make(state)
        wanted = {"mesh.": "mesh.", "detector.": f"detector_{RANGE}."}
        lacking = [
            name
            for name in port.models[RANGE].state_dict()
            for own, theirs in wanted.items()
            if name.startswith(own) and theirs + name.removeprefix(own) not in there
        ]
        if lacking:
            raise _other(self.model, f"{len(lacking)} tensors are missing, the first is {lacking[0]}")
        return port


def _port() -> Callable[[dict[str, Tensor]], Any] | None:
    """What makes a detector of the file's tensors, if this ComfyUI has the port."""
    try:
        return import_module("comfy_extras.nodes_mediapipe").FaceLandmarkerModel
    except (ImportError, AttributeError):
        return None


def _model() -> Path | None:
    """The port's file among ComfyUI's models: the published one, or the first that is called like it."""
    if DETECTION_FOLDER not in folder_paths.folder_names_and_paths:
        return None
    names = [str(name) for name in folder_paths.get_filename_list(DETECTION_FOLDER)]
    alike = [name for name in names if all(word in Path(name).name.lower() for word in KNOWN)]
    best = next((name for name in alike if Path(name).name == FILE), alike[0] if alike else None)
    path = None if best is None else folder_paths.get_full_path(DETECTION_FOLDER, best)
    return None if path is None else Path(path)


def _look_for(port: Any, levels: Tensor) -> list[Tensor]:
    faces = port.detect_batch([levels.numpy()], num_faces=0, score_thresh=SURE, variant=RANGE)[0]
    # MediaPipe itself drops a face of whose presence its second network is less than half sure: below 0 here.
    return [torch.as_tensor(face["landmarks_xy"]).double() for face in faces if face["presence"] >= 0]


def _without_model(picture: Tensor, face: DetectedFace) -> NoReturn:
    del picture, face
    raise CheckpointError(
        "MediaPipe's face landmarks need a model file that is missing.",
        found=f"no {FILE} in ComfyUI's models/{DETECTION_FOLDER}",
        expected="the file of ComfyUI's own MediaPipe nodes (5.4 MB, Apache 2.0)",
        fix="download it from detection of Comfy-Org/mediapipe on huggingface.co into models/"
        + DETECTION_FOLDER,
    )


def _other(model: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "ComfyUI's MediaPipe port cannot find face landmarks.",
        found=f"{model.name}: {found}",
        expected=f"{FILE}, as published for ComfyUI's own MediaPipe nodes",
        fix="download the file again, or update ComfyUI",
    )


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


def own_analyzer(
    config: FaceConfig, choice: FaceChoice | None = None, *, unverified: bool = False
) -> FaceAnalyzer:
    """The analyzer of a model's embedding space, with ComfyUI's own way to landmarks for photographs.

    Raises ``FaceError`` when there is none, ``CheckpointError`` when a file is missing.
    """
    folder = faces_folder()
    landmarks = find_landmarks(folder)
    return create_analyzer(config, folder, landmarks=landmarks, choice=choice, unverified=unverified)
