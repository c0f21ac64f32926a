"""Which of several faces to use, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FaceError
from ..geometry import PixelBox
from ..media.framing import mask_extent
from .landmarks import box_mask
from .scrfd import CONFIDENT_SCORE, DetectedFace

SAME_SIZE_RATIO = 0.99
"""Faces of at least this share of the largest one's area count as equally large."""
GOOD_SCORE = 0.65
"""A face with a lower score is doubtful."""
MIN_AREA = 0.05
"""A face with a smaller share of the picture is small."""
MIN_VISIBLE = 0.95
"""A face with a smaller share of its box in the picture is cut off."""
FRONTAL_NOSE = (0.15, 0.85)
"""Range of the nose's position between the eyes (0..1) for a frontal face."""
MIN_EYE_DISTANCE = 0.15
"""Distance of the eyes, in widths of the box, below which a face is a profile."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceChoice:
    """Which face of a picture to use; the largest by default. ``index``: its number from the left, 0 for the
    largest. ``box``: the face in this box, which also replaces its own box for the mask. ``mask`` [h, w]:
    what the reference network may see, from 0.5 on, and which face. ``whole_picture``: if no face is found,
    continue like the original, with an embedding of zeros and a mask of ones."""

    index: int = 0
    box: PixelBox | None = None
    mask: Tensor | None = None
    whole_picture: bool = False

    @property
    def place(self) -> PixelBox | None:
        """The box, or the extent of the mask, that the face is in."""
        return self.box if self.box is not None or self.mask is None else mask_extent(self.mask >= 0.5)

    def make_mask(self, height: int, width: int) -> Tensor | None:
        """The user's mask or box as [h, w] of 0 and 1, if any. Raises ``FaceError`` if it does not fit."""
        if self.mask is None:
            return None if self.box is None else box_mask(self.box, height, width)
        mask = (self.mask >= 0.5).float()
        if tuple(mask.shape) != (height, width) or not bool(mask.any()):
            raise FaceError(
                "The face mask cannot be used.",
                found=f"{list(mask.shape)}, {float(mask.mean()) if mask.numel() else 0:.0%} of it set",
                expected=f"[{height}, {width}], set where the face is",
                fix="draw the mask on this picture, or remove it to detect the face",
            )
        return mask


def select_face(faces: Sequence[DetectedFace], choice: FaceChoice) -> tuple[DetectedFace | None, list[str]]:
    """The chosen one of ``faces``, ordered from left to right, and notes for the user. None if there is none
    and the whole picture may be used; else, and for an unknown number, raises ``FaceError``."""
    count = "1 face is" if len(faces) == 1 else f"{len(faces)} faces are"
    if faces and not 0 <= choice.index <= len(faces):
        raise FaceError(
            "There is no face of this number on the portrait.",
            found=f"number {choice.index}, but {count} there",
            expected=f"0 for the largest, or 1 to {len(faces)} from the left",
            fix="look at the preview and choose one of its numbers",
        )
    if not faces:
        return _handle_no_face("no face", "use a picture that shows the face from the front", choice)
    if choice.index:
        return faces[choice.index - 1], []
    if (place := choice.place) is not None:
        nearest = max(faces, key=lambda face: face.box.intersect(place).area)
        if nearest.box.intersect(place).area <= 0:
            found = f"no face in the given place, {count} elsewhere"
            return _handle_no_face(found, "move it to a face", choice)
        return nearest, []
    largest = max(face.box.area for face in faces)
    numbers = [n for n, face in enumerate(faces, 1) if face.box.area >= SAME_SIZE_RATIO * largest]
    notes: list[str] = []
    if len(faces) > 1:
        reason = "the left-most of the largest, which are alike" if len(numbers) > 1 else "the largest"
        notes.append(
            f"{count} in the portrait: number {numbers[0]} from the left is used, {reason}. "
            f"Choose another by its number, 1 to {len(faces)}."
        )
    return faces[numbers[0] - 1], notes


def _handle_no_face(found: str, fix: str, choice: FaceChoice) -> tuple[None, list[str]]:
    if choice.whole_picture:
        return None, [f"There is {found}: the whole picture is used, without an identity to preserve."]
    raise FaceError(
        "No face was found on the portrait.",
        found=found,
        expected="one face, seen from the front, that fills a good part of the picture",
        fix=f"{fix}, or allow the whole picture to be used (without an identity)",
    )


def describe_problems(face: DetectedFace, height: int, width: int) -> list[str]:
    """What may be wrong with a face in a picture of height x width, in sentences."""
    share, notes = face.box.area / (height * width), list[str]()
    if face.score < GOOD_SCORE:
        doubt = "doubtful" if face.score >= CONFIDENT_SCORE else "very doubtful"
        notes.append(f"The face is {doubt} (score {face.score:.2f} of 1): check that it is the right one.")
    if is_profile(face):
        notes.append(
            f"The face is seen from the side (score {face.score:.2f} of 1): lips move best on frontal faces."
        )
    if share < MIN_AREA:
        notes.append(
            f"The face is small, {share:.1%} of the picture: crop the picture closer for a sharper result."
        )
    if face.visible < MIN_VISIBLE:
        notes.append(
            f"The face is cut off at the picture's edge, {face.visible:.0%} of it is visible: use a picture "
            "that shows all of it."
        )
    return notes


def is_profile(face: DetectedFace) -> bool:
    """Whether the nose is not between the eyes, or the eyes are nearly behind each other."""
    left, right, nose = face.landmarks[:3].double()
    line = right - left
    squared = float(line.square().sum())
    if squared == 0 or squared**0.5 < MIN_EYE_DISTANCE * (face.box.right - face.box.left):
        return True
    low, high = FRONTAL_NOSE
    return not low <= float(torch.dot(nose - left, line)) / squared <= high
