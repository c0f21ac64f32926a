"""The person to animate: a portrait, analyzed when needed, or a saved identity."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.locate import ModelFolder
from ..config import Hallo3Config
from ..errors import InputError
from ..face.registry import analyze_face, create_analyzer
from ..face.selection import FaceChoice
from ..geometry import PixelBox
from ..identity import Identity, Portrait, frame_portrait
from ..identity_file import check_model, fingerprint_in, read_identity
from ..media.canvas import Canvas, fit, keeps_whole
from ..media.image import read_picture
from ..media.paste_back import PasteBack
from ..storage.hashing import hash_tensor
from .options import AnimateOptions
from .session import look_at


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """Either a ``picture`` [3, h, w] with the ``choice`` of a face in it, or of those of several ``people``,
    or a saved ``identity``."""

    name: str
    config: Hallo3Config
    faces: Path | None
    framing: str
    choice: FaceChoice
    people: tuple[FaceChoice, ...] = ()
    faces_unverified: bool = False
    picture: Tensor | None = None
    identity: Identity | None = None

    @cached_property
    def portrait(self) -> Portrait:
        """The analyzed portrait, if there is no identity. Raises ``FaceError`` without a usable face."""
        assert self.picture is not None
        analyzer = create_analyzer(
            self.config.face, self.faces, choice=self.choice, unverified=self.faces_unverified
        )
        if self.people:
            from ..face.people import analyze_people

            face = analyze_people(self.picture, analyzer, self.config.face, self.people)
        else:
            face = analyze_face(self.picture, analyzer, self.config.face, self.choice)
        return frame_portrait(self.picture, face, self.config.segment.shape, self.framing)

    @cached_property
    def canvas(self) -> Canvas:
        """The start of every segment. The face is analyzed only if it decides the crop."""
        if self.identity is not None:
            return self.identity.canvas
        assert self.picture is not None
        (height, width), shape = self.picture.shape[1:], self.config.segment.shape
        if keeps_whole(height, width, shape, self.framing):
            return fit(self.picture, shape)
        return self.portrait.canvas

    def preview(self) -> Tensor:
        """A picture [3, h, w] in 0..1 of what is used; the canvas of an identity without a preview."""
        picture = self.portrait.preview() if self.identity is None else self.identity.preview
        return (self.canvas.pixels[0, :, 0] + 1) / 2 if picture is None else picture / 255

    def paste_back(self) -> PasteBack:
        """Raises ``InputError`` if an identity was saved without its photograph."""
        paste_back = self.portrait.paste_back if self.identity is None else self.identity.paste_back
        if paste_back is None:
            raise InputError(
                "There is no photograph to paste the frames back into.",
                found=f"{self.name} without one",
                expected="an identity that was saved with its photograph",
                fix="remove --paste-back, or save the identity again",
            )
        return paste_back

    def facts(self) -> dict[str, Any]:
        """Everything that decides frames, for the job's key."""
        if self.identity is not None and self.identity.saved_info is not None:
            return {"identity": self.identity.saved_info.content}
        assert self.picture is not None
        choice = self.choice.index, self.choice.box, self.choice.whole_picture, self.framing
        people = {"people": [[each.index, each.box] for each in self.people]} if self.people else {}
        return {"portrait": hash_tensor(self.picture), "asked": choice, **people}


def subject_facts(options: AnimateOptions) -> tuple[object, ...]:
    """All that ``read_subject`` reads of the options."""
    choice = options.face, options.face_box, options.whole_picture, options.framing, options.faces_unverified
    return *look_at(options.portrait), *look_at(options.identity), choice, options.save_identity is not None


def read_subject(
    options: AnimateOptions, files: ModelFolder, config: Hallo3Config, numbers: tuple[int, ...] = ()
) -> Subject:
    """Read the portrait or the identity that the options name; ``numbers`` are of the faces of speakers.
    Raises the errors of :mod:`hallo3.errors`."""
    choice, people = FaceChoice(), tuple[FaceChoice, ...]()
    if not numbers:
        box = _parse_box(options.face_box)
        choice = FaceChoice(index=options.face, box=box, whole_picture=options.whole_picture)
    elif options.identity is None:
        people = _choose_people(options, numbers)
        choice, people = (people[0], ()) if len(people) == 1 else (choice, people)
    source = options.identity or options.portrait
    assert source is not None  # a required option
    subject = Subject(
        name=source.name,
        config=config,
        faces=files.faces,
        framing=options.framing,
        choice=choice,
        people=people,
        faces_unverified=options.faces_unverified,
    )
    if options.identity is None:
        return replace(subject, picture=read_picture(source))
    conflicting = {
        "--portrait": options.portrait is not None,
        "--save-identity": options.save_identity is not None,
        "--face": options.face != 0,
        "--face-box": options.face_box is not None,
        "--framing": options.framing != "auto",
        "--whole-picture": options.whole_picture,
    }
    if others := [name for name, is_used in conflicting.items() if is_used]:
        raise InputError(
            "Give either a portrait or --identity, not both.",
            found=f"--identity and {', '.join(others)}",
            expected="a portrait with its options, or a saved identity",
            fix="remove one of them",
        )
    identity = read_identity(options.identity)
    check_model(identity, config, lambda: fingerprint_in(files.open("transformer")))
    return replace(subject, identity=identity)


def _choose_people(options: AnimateOptions, numbers: tuple[int, ...]) -> tuple[FaceChoice, ...]:
    """The faces of speakers: those with these numbers, or in these places of several boxes. Raises
    ``InputError``."""
    conflicting = {"--face": options.face != 0, "--whole-picture": options.whole_picture}
    if found := [name for name, is_used in conflicting.items() if is_used]:
        raise InputError(
            "The numbers of recordings choose the faces.",
            found=f"{', '.join(found)} and speakers {', '.join(map(str, numbers))}",
            expected="one of them",
            fix=f"remove {', '.join(found)}",
        )
    if options.face_box is None:
        return tuple(FaceChoice(index=number) for number in numbers)
    boxes = options.face_box.split(";")
    if max(numbers) > len(boxes):
        raise InputError(
            "There is no face box for a speaker.",
            found=f"{len(boxes)} boxes, and speaker {max(numbers)}",
            expected="a box for each, from the left, separated by semicolons",
            fix='give more, such as --face-box "20,30,80,110;160,30,220,110"',
        )
    return tuple(FaceChoice(box=_parse_box(boxes[number - 1])) for number in numbers)


def _parse_box(text: str | None) -> PixelBox | None:
    """``LEFT,TOP,RIGHT,BOTTOM`` in pixels of the portrait. Raises ``InputError``."""
    if text is None:
        return None
    number = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
    match = re.fullmatch(",".join([number] * 4), text)
    edges = [float(edge) for edge in match.groups()] if match else [0.0] * 4
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise InputError(
            "The face box cannot be read.",
            found=f"--face-box {text}",
            expected="four numbers LEFT,TOP,RIGHT,BOTTOM in pixels, RIGHT > LEFT and BOTTOM > TOP",
            fix="give the face's edges in the portrait, such as --face-box 120,80,360,400",
        )
    return PixelBox(*edges)
