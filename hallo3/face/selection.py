"""Which of several faces is meant, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FaceError
from ..geometry import PixelBox
from .scrfd import SURE, DetectedFace

ALIKE = 0.99
"""Faces with this share of the largest one's area are as large as it."""
GOOD = 0.65
"""A score below which a face is said to be doubtful."""
SMALL = 0.05
"""Share of the picture below which a face is said to be small."""
CUT = 0.95
"""Share of a face's box that lies on the picture, below which it is said to be cut off."""
FRONTAL = (0.15, 0.85)
"""Where, on the way from eye to eye, the nose of a face that looks ahead is."""
NARROW = 0.15
"""Distance of the eyes, in widths of the box, below which a face is seen from the side."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceChoice:
    """What a user wants of the faces on a picture; nothing said: the largest, by itself.

    ``index``: the so-many-th face from the left, 0 for the largest. ``box``: the face in this box, which
    also stands in place of the face's own for the mask. ``mask`` [h, w]: where the reference network may
    look, from 0.5 on, and whose face is meant. ``whole_picture``: where no face is found, go on as the
    original does, with an embedding of zeros and a mask of ones.
    """

    index: int = 0
    box: PixelBox | None = None
    mask: Tensor | None = None
    whole_picture: bool = False

    @property
    def place(self) -> PixelBox | None:
        """The box, or the extent of the mask, that the face is in."""
        if self.box is not None or self.mask is None:
            return self.box
        rows, columns = ((self.mask >= 0.5).any(dim=dim).nonzero() for dim in (1, 0))
        if not len(rows):
            return None
        edges = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        return PixelBox(*edges)


def select_face(faces: Sequence[DetectedFace], choice: FaceChoice) -> tuple[DetectedFace | None, list[str]]:
    """The face that is meant among ``faces``, from left to right, and what to say of the choice.

    None if there is none and the whole picture may be used. Raises ``FaceError`` when it may not, and for
    an index that no face has.
    """
    if faces and not 0 <= choice.index <= len(faces):
        raise FaceError(
            "There is no face of this number on the portrait.",
            found=f"number {choice.index}, and {_faces(len(faces))} there",
            expected=f"0 for the largest, or 1 to {len(faces)} from the left",
            fix="look at the preview and choose one of its numbers",
        )
    if not faces:
        return _nobody("no face", "use a picture that shows the face from the front", choice)
    if choice.index:
        return faces[choice.index - 1], []
    if (place := choice.place) is not None:
        there = max(faces, key=lambda face: face.box.common(place).area)
        if there.box.common(place).area <= 0:
            found = f"no face in the given place, {_faces(len(faces))} elsewhere"
            return _nobody(found, "move it to a face", choice)
        return there, []
    largest = max(face.box.area for face in faces)
    alike = [number for number, face in enumerate(faces) if face.box.area >= ALIKE * largest]
    notes: list[str] = []
    if len(faces) > 1:
        why = "the left-most of the largest, which are alike" if len(alike) > 1 else "the largest"
        notes.append(
            f"{_faces(len(faces))} on the portrait: number {alike[0] + 1} from the left is used, {why}. "
            f"Choose another by its number, 1 to {len(faces)}."
        )
    return faces[alike[0]], notes


def doubts(face: DetectedFace, height: int, width: int) -> list[str]:
    """What may be wrong with a face on a picture of a size, in sentences; nothing: none."""
    notes: list[str] = []
    if face.score < GOOD:
        sure = "doubtful" if face.score >= SURE else "very doubtful"
        notes.append(f"The face is {sure} (score {face.score:.2f} of 1): check that it is the right one.")
    if is_profile(face):
        notes.append(
            f"The face is seen from the side (score {face.score:.2f} of 1): lips move best on faces that "
            "look ahead."
        )
    if face.box.area < SMALL * height * width:
        share = face.box.area / (height * width)
        notes.append(
            f"The face is small, {share:.1%} of the picture: crop the picture nearer to it for a sharper "
            "result."
        )
    if face.visible < CUT:
        notes.append(
            f"The face is cut off at the picture's border, {face.visible:.0%} of it is there: use a picture "
            "that shows all of it."
        )
    return notes


def given_mask(choice: FaceChoice, height: int, width: int) -> Tensor | None:
    """The user's mask [h, w] as 0 and 1, None where none is given. Raises ``FaceError`` for one that does not
    fit the picture or holds nothing."""
    if choice.mask is None:
        return None
    mask = (choice.mask >= 0.5).float()
    if tuple(mask.shape) != (height, width) or not bool(mask.any()):
        raise FaceError(
            "The given face mask cannot be used.",
            found=f"{list(mask.shape)}, {float(mask.mean()) if mask.numel() else 0:.0%} of it set",
            expected=f"[{height}, {width}], set where the face is",
            fix="draw the mask on this picture, or leave it out and let the face be found",
        )
    return mask


def is_profile(face: DetectedFace) -> bool:
    """Whether a face looks aside: its nose is not between its eyes, or they are nearly behind each other."""
    left, right, nose = face.landmarks[:3].double()
    line = right - left
    length = float(line.square().sum())
    if length**0.5 < NARROW * (face.box.right - face.box.left) or length == 0:
        return True
    way = float(torch.dot(nose - left, line)) / length
    return not FRONTAL[0] <= way <= FRONTAL[1]


def _nobody(found: str, fix: str, choice: FaceChoice) -> tuple[None, list[str]]:
    if choice.whole_picture:
        return None, [
            f"There is {found}: as asked for, the whole picture is used and nobody is recognised, so the "
            "likeness may be lost."
        ]
    raise FaceError(
        "No face was found on the portrait.",
        found=found,
        expected="one face, seen from the front, that fills a good part of the picture",
        fix=f"{fix}, or allow the whole picture to be used (nobody is recognised then)",
    )


def _faces(count: int) -> str:
    return "1 face is" if count == 1 else f"{count} faces are"
