"""Faces in photographs, as the released model was trained with them: SCRFD detects, ArcFace embeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError
from ..messages import logger
from ..onnx_model import missing
from .analyzer import Face
from .arcface import ARCFACE_SPACE, EMBEDDING_DIM, RECOGNIZER_FILENAME, Recognizer
from .landmarks import box_mask, silhouette_box
from .scrfd import ANTELOPE, CONFIDENT_SCORE, DETECTOR_FILENAME, DetectedFace, Detector
from .selection import FaceChoice, describe_problems, select_face

FACE_DIRS = ("face_analysis/models", "face_analysis", "insightface/models/antelopev2", "antelopev2")
"""Where the face analyzer's files may be: as the original publishes them, or among ComfyUI's models."""
FACE_SUBDIRS = (".", "models", *FACE_DIRS)
"""Where they may be in a folder that a user names: as the archives are laid out."""

DetectFaces = Callable[[Tensor], list[DetectedFace]]
"""The faces in a picture [3, h, w] in 0..1, doubtful ones too."""
EmbedFace = Callable[[Tensor, Tensor], Tensor]
"""The embedding [1, 512] of the face with landmarks [5, 2] in a picture [3, h, w] in 0..1."""
FindLandmarks = Callable[[Tensor, DetectedFace], Tensor | None]
"""MediaPipe's landmarks [478, 2] in pixels of a detected face in a picture [3, h, w] in 0..1; None if there
is no face. Raises ``CheckpointError`` or ``DependencyError`` if it cannot run."""
BOX_FALLBACK = "The face mask is made of the detector's box, not of MediaPipe's landmarks as in the original"
"""The beginning of a note; the reason follows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceSelection:
    """``faces`` of a picture from left to right; the ``face`` to use, None for the whole picture; its
    ``mask`` [h, w] of 0 and 1; and ``notes`` for the user."""

    faces: tuple[DetectedFace, ...]
    face: DetectedFace | None
    mask: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotographAnalyzer:
    """The analyzer of the space ``arcface-glintr100``.

    Differs from the original without ``landmarks`` (silently), or if those find nothing or cannot run: then
    the detector's box, rounded, replaces the box around MediaPipe's silhouette, and a note gives the reason.
    The difference was only measured with the box of MediaPipe's own detector: its top is 13 to 17 px lower,
    its other sides differ by up to 16 px, for three faces of 138 to 238 px, and the masks have an
    intersection over union of 0.83 to 0.90 (decision 009).
    """

    detect: DetectFaces
    embed: EmbedFace
    landmarks: FindLandmarks | None = None
    choice: FaceChoice = field(default_factory=FaceChoice)
    space: str = ARCFACE_SPACE

    @staticmethod
    def from_folder(
        folder: Path,
        *,
        landmarks: FindLandmarks | None = None,
        choice: FaceChoice | None = None,
        unverified: bool = False,
    ) -> PhotographAnalyzer:
        """The analyzer with the files in a folder. Raises ``CheckpointError`` if one is missing. Files are
        read, and onnxruntime is imported, when the first picture is analyzed."""
        return PhotographAnalyzer(
            detect=Detector(find_face_file(folder, DETECTOR_FILENAME), unverified),
            embed=Recognizer(find_face_file(folder, RECOGNIZER_FILENAME), unverified),
            landmarks=landmarks,
            choice=choice or FaceChoice(),
        )

    def select(self, picture: Tensor) -> FaceSelection:
        """Detect the faces in a picture [3, h, w] in 0..1 and choose one. Raises ``FaceError`` if there is
        none, unless the whole picture may be used, and for an invalid choice."""
        height, width = picture.shape[1:]
        detected = self.detect(picture)
        confident = [face for face in detected if face.score >= CONFIDENT_SCORE]
        faces = sorted(confident or detected, key=lambda face: face.box.left + face.box.right)
        mask = self.choice.make_mask(height, width)
        face, notes = select_face(faces, self.choice)
        if face is not None:
            notes += describe_problems(face, height, width)
        if mask is None:
            mask = torch.ones(height, width) if face is None else self._make_mask(picture, face, notes)
        return FaceSelection(faces=tuple(faces), face=face, mask=mask, notes=tuple(notes))

    def analyze(self, picture: Tensor) -> Face:
        """The chosen face of a picture [3, h, w] in 0..1; warns with the notes of :meth:`select`. Zeros embed
        a whole picture. Errors as of :meth:`select` and of ArcFace's ``align``."""
        selection = self.select(picture)
        for note in selection.notes:
            logger.warning(note)
        if selection.face is None:
            return Face(mask=selection.mask, embedding=torch.zeros(1, EMBEDDING_DIM))
        return Face(
            mask=selection.mask,
            embedding=self.embed(picture, selection.face.landmarks),
            boxes=tuple(face.box for face in selection.faces),
            index=next(n for n, face in enumerate(selection.faces) if face is selection.face),
        )

    def _make_mask(self, picture: Tensor, face: DetectedFace, notes: list[str]) -> Tensor:
        """Adds to the notes for the user."""
        box = face.box
        try:
            if self.landmarks is not None:
                points = self.landmarks(picture, face)
                if points is None:
                    notes.append(f"{BOX_FALLBACK}: MediaPipe finds no face where the detector does.")
                else:
                    box = silhouette_box(points)
        except (CheckpointError, DependencyError) as error:
            notes.append(f"{BOX_FALLBACK}. {error.headline} Found: {error.found}. Fix: {error.fix}.")
        return box_mask(box, *picture.shape[1:])


def find_face_file(folder: Path, name: str) -> Path:
    """Raises ``CheckpointError``."""
    paths = [folder / place / name for place in FACE_SUBDIRS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise missing(folder / name, ANTELOPE)
    return path
