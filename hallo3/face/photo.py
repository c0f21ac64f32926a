"""Faces on photographs, as the released model was trained with them: SCRFD finds, ArcFace describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, DependencyError
from ..geometry import PixelBox
from ..messages import logger
from ..onnx_model import missing
from . import arcface
from . import scrfd as detector
from .analyzer import Face
from .landmarks import box_mask, silhouette_box
from .scrfd import ANTELOPE, SURE, DetectedFace
from .selection import FaceChoice, doubts, given_mask, select_face

PLACES = (".", "antelopev2", "models", "face_analysis/models")
"""Where the files may lie in the folder that a user names: as the archives are laid out."""

Detect = Callable[[Tensor], list[DetectedFace]]
"""The faces on a picture [3, h, w] in 0..1, doubtful ones too."""
Recognize = Callable[[Tensor, Tensor], Tensor]
"""The embedding [1, 512] of the face with landmarks [5, 2] on a picture [3, h, w] in 0..1."""
FindLandmarks = Callable[[Tensor, DetectedFace], Tensor | None]
"""MediaPipe's landmarks [478, 2] in pixels of a face that was found on a picture [3, h, w] in 0..1; None if
it finds none there. Raises ``CheckpointError`` or ``DependencyError`` where it cannot look."""
STANDS_IN = "The face mask is made of the detector's box, not of MediaPipe's landmarks as in the original"
"""What is said where a finder of landmarks finds none or cannot look; why follows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceSelection:
    """What was found on a picture, for previews: ``faces`` from left to right; the ``chosen`` one, None if
    the whole picture is used; the ``mask`` [h, w] of 0 and 1; and ``notes`` for the user."""

    faces: tuple[DetectedFace, ...]
    chosen: DetectedFace | None
    mask: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotographAnalyzer:
    """The analyzer of the space ``arcface-glintr100``.

    Differs from the original where there is no ``landmarks`` finder (nothing is said then), or it finds
    nothing or cannot look: the detector's box, rounded, stands in place of the box around MediaPipe's
    silhouette, and a note says why. How far the two differ has been measured with the box of MediaPipe's own
    detector only: its top is 13 to 17 px lower, its other sides differ by up to 16 px, for three faces of 138
    to 238 px, and the masks share 0.83 to 0.90 of their union (decision 009).
    """

    detect: Detect
    recognize: Recognize
    landmarks: FindLandmarks | None = None
    choice: FaceChoice = field(default_factory=FaceChoice)

    @property
    def space(self) -> str:
        """The embedding space that it writes in."""
        return arcface.SPACE

    @staticmethod
    def from_folder(
        folder: Path,
        *,
        landmarks: FindLandmarks | None = None,
        choice: FaceChoice | None = None,
        unverified: bool = False,
    ) -> PhotographAnalyzer:
        """The analyzer whose files lie in a folder, or where antelopev2's archives put them below it.

        Raises ``CheckpointError`` if one is missing. Neither is read before a picture is analyzed: what is
        wrong with a file, and a missing onnxruntime, is said then.
        """
        return PhotographAnalyzer(
            detect=detector.Detector(_file(folder, detector.FILE), unverified),
            recognize=arcface.Recognizer(_file(folder, arcface.FILE), unverified),
            landmarks=landmarks,
            choice=choice or FaceChoice(),
        )

    def look(self, picture: Tensor) -> FaceSelection:
        """Which faces are on a picture [3, h, w] in 0..1, which one is meant, and its mask.

        Raises ``FaceError`` where no face is found, unless the whole picture may be used, and for a choice
        that cannot be; nothing is recognised yet.
        """
        height, width = picture.shape[1:]
        found = self.detect(picture)
        sure = [face for face in found if face.score >= SURE]
        faces = sorted(sure or found, key=lambda face: face.box.left + face.box.right)
        given = given_mask(self.choice, height, width)
        chosen, notes = select_face(faces, self.choice)
        if chosen is not None:
            notes += doubts(chosen, height, width)
        mask, doubt = self._mask(picture, chosen) if given is None else (given, [])
        return FaceSelection(faces=tuple(faces), chosen=chosen, mask=mask, notes=(*notes, *doubt))

    def analyze(self, picture: Tensor) -> Face:
        """The chosen face on a picture [3, h, w] in 0..1; what :meth:`look` notes, as warnings.

        Its embedding is zeros where the whole picture is used. Errors as of :meth:`look`, and
        ``FaceError`` for landmarks that ArcFace cannot align.
        """
        seen = self.look(picture)
        for note in seen.notes:
            logger.warning(note)
        if seen.chosen is None:
            return Face(mask=seen.mask, embedding=torch.zeros(1, arcface.NUMBERS))
        return Face(
            mask=seen.mask,
            embedding=self.recognize(picture, seen.chosen.landmarks),
            boxes=tuple(face.box for face in seen.faces),
            chosen=next(n for n, face in enumerate(seen.faces) if face is seen.chosen),
        )

    def _mask(self, picture: Tensor, chosen: DetectedFace | None) -> tuple[Tensor, list[str]]:
        height, width = picture.shape[1:]
        if self.choice.box is not None:
            return box_mask(self.choice.box, height, width), []
        if chosen is None:
            return torch.ones(height, width), []
        box, notes = self._face_box(picture, chosen)
        return box_mask(box, height, width), notes

    def _face_box(self, picture: Tensor, chosen: DetectedFace) -> tuple[PixelBox, list[str]]:
        """The box that the mask is made of, and what is to be said of it."""
        if self.landmarks is None:
            return chosen.box, []
        try:
            points = self.landmarks(picture, chosen)
        except (CheckpointError, DependencyError) as error:
            return chosen.box, [f"{STANDS_IN}. {error.headline} Found: {error.found}. Do: {error.fix}."]
        if points is None:
            return chosen.box, [f"{STANDS_IN}: MediaPipe finds no face where the detector does."]
        return silhouette_box(points), []


def _file(folder: Path, name: str) -> Path:
    for place in PLACES:
        if (folder / place / name).is_file():
            return folder / place / name
    raise missing(folder / name, ANTELOPE)
