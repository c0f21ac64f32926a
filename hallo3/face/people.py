"""Several people of one picture, each described by the analyzer of one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..config import FaceConfig
from ..errors import FaceError
from ..geometry import PixelBox
from .analyzer import Face, FaceAnalyzer
from .registry import analyze_face
from .selection import FaceChoice

SAME_FACE = 0.5
"""Intersection over union of boxes that are one face."""


def analyze_people(
    picture: Tensor, analyzer: FaceAnalyzer, config: FaceConfig, choices: Sequence[FaceChoice]
) -> Face:
    """The chosen faces of a picture [3, h, w] in 0..1 as one: embeddings [P, E] and ``people`` in the order
    of ``choices``, and a mask that shows them all. Raises as :func:`analyze_face`, and ``FaceError`` for a
    face that has no box, or is chosen twice."""
    faces, people = list[Face](), list[PixelBox]()
    for number, choice in enumerate(choices, 1):
        chosen: Any = analyzer
        if hasattr(analyzer, "choice"):
            chosen = replace(cast(Any, analyzer), choice=choice)
        elif choice.place is None:
            raise FaceError(
                "This model's face analyzer does not find several faces.",
                found=f"no place of face {number}",
                expected="a box for every speaker",
                fix="give the faces' boxes (--face-box, one per speaker, separated by semicolons)",
            )
        face = analyze_face(picture, chosen, config, choice)
        box = choice.place or (None if face.index is None else face.boxes[face.index])
        if box is None:
            raise FaceError(
                "A speaker's face was not found.",
                found=f"no face for speaker {number}",
                expected="a face for every speaker",
                fix="choose other faces by their numbers in the preview, or give their boxes",
            )
        twice = next((n for n, other in enumerate(people, 1) if other.overlap(box) > SAME_FACE), None)
        if twice is not None:
            raise FaceError(
                "Two speakers have the same face.",
                found=f"speakers {twice} and {number} at the same place",
                expected="a face of their own for every speaker",
                fix="choose another face for one of them",
            )
        faces.append(face)
        people.append(box)
    return Face(
        mask=torch.stack([face.mask for face in faces]).amax(dim=0),
        embedding=torch.cat([face.embedding for face in faces]),
        boxes=max((face.boxes for face in faces), key=len),
        people=tuple(people),
    )


def analyze_speakers(
    picture: Tensor,
    analyzer: FaceAnalyzer,
    config: FaceConfig,
    numbers: Sequence[int],
    choices: Sequence[FaceChoice] = (),
) -> Face:
    """:func:`analyze_people` of the faces with these numbers, or of ``choices``, whose places the numbers
    are; of one number that face alone. Raises ``FaceError`` for a number that no face has."""
    if choices and max(numbers) > len(choices):
        raise FaceError(
            "There is no face for a speaker.",
            found=f"speaker {max(numbers)}, and {len(choices)} faces",
            expected="a face for every speaker",
            fix="choose more faces, or let fewer people speak",
        )
    chosen = [choices[number - 1] if choices else FaceChoice(index=number) for number in numbers]
    people = analyze_people(picture, analyzer, config, chosen)
    return people if len(chosen) > 1 else replace(people, people=(), index=_index_of(people))


def _index_of(face: Face) -> int | None:
    return face.boxes.index(face.people[0]) if face.people[0] in face.boxes else None
