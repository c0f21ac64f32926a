"""Who is to speak: a portrait that is looked at before anything large is loaded, or a saved identity."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checkpoints.locate import ModelFolder
from ..config import Hallo3Config
from ..errors import InputError
from ..face.registry import analyze_face, create_analyzer
from ..face.selection import FaceChoice
from ..geometry import PixelBox
from ..identity import Identity, Portrait, frame_portrait
from ..identity_file import check_made_for, fingerprint_in, read_identity
from ..media.canvas import Canvas
from ..media.image import read_picture
from ..media.paste_back import PasteBack
from ..storage.hashing import hash_tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speaker:
    """A ``portrait`` and the face on it that was ``asked`` for, or an identity that was ``saved``."""

    name: str
    asked: tuple[Any, ...] = ()
    portrait: Portrait | None = None
    saved: Identity | None = None

    @property
    def canvas(self) -> Canvas:
        """What every segment starts from."""
        return self.saved.canvas if self.saved else self._portrait.canvas

    def overview(self) -> Tensor:
        """A picture [3, h, w] in 0..1 of what is used; the canvas of an identity that was saved without."""
        shown = self.saved.overview if self.saved else self._portrait.overview()
        return (self.canvas.pixels[0, :, 0] + 1) / 2 if shown is None else shown / 255

    def surroundings(self) -> PasteBack:
        """The photograph to paste frames back into. Raises ``InputError`` if a saved identity has none."""
        found = self.saved.surroundings if self.saved else self._portrait.surroundings
        if found is None:
            raise InputError(
                "There is no photograph to paste the frames back into.",
                found=f"{self.name} without one",
                expected="an identity that was saved with its photograph",
                fix="leave --paste-back out, or make the identity again",
            )
        return found

    def facts(self) -> dict[str, Any]:
        """What decides frames."""
        if self.saved and self.saved.saved:
            return {"identity": self.saved.saved.content}
        return {"portrait": hash_tensor(self._portrait.picture), "asked": self.asked}

    @property
    def _portrait(self) -> Portrait:
        assert self.portrait is not None  # one of the two is there
        return self.portrait


def read_speaker(options: Namespace, files: ModelFolder, config: Hallo3Config) -> Speaker:
    """The options as a speaker. The face is looked for here, so that what is wrong with it is said before a
    long run. Raises the errors of :mod:`hallo3.errors`."""
    if options.identity is not None:
        asked = {
            "--portrait": options.portrait is not None,
            "--save-identity": options.save_identity is not None,
            "--face": options.face != 0,
            "--face-box": options.face_box is not None,
            "--framing": options.framing != "auto",
            "--whole-picture": options.whole_picture,
        }
        if others := [name for name, there in asked.items() if there]:
            raise InputError(
                "There are two answers to who is to speak.",
                found=f"--identity and {', '.join(others)}",
                expected="a portrait and what is asked of it, or an identity that was saved from one",
                fix="leave one of them out",
            )
        identity = read_identity(options.identity)
        check_made_for(identity, config, lambda: fingerprint_in(files.transformer))
        return Speaker(name=options.identity.name, saved=identity)
    picture = read_picture(options.portrait)
    choice = FaceChoice(
        index=options.face, box=box_named(options.face_box), whole_picture=options.whole_picture
    )
    analyzer = create_analyzer(config.face, files.faces, choice=choice)
    face = analyze_face(picture, analyzer, config.face, choice)
    portrait = frame_portrait(picture, face, config.segment.shape, options.framing)
    asked = choice.index, choice.box, choice.whole_picture, options.framing
    return Speaker(name=options.portrait.name, asked=asked, portrait=portrait)


def box_named(text: str | None) -> PixelBox | None:
    """``LEFT,TOP,RIGHT,BOTTOM`` in pixels of the portrait. Raises ``InputError``."""
    if text is None:
        return None
    number = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
    found = re.fullmatch(",".join([number] * 4), text)
    edges = [float(edge) for edge in found.groups()] if found else [0.0] * 4
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise InputError(
            "The face's box cannot be read.",
            found=f"--face-box {text}",
            expected="four numbers LEFT,TOP,RIGHT,BOTTOM in pixels, right of left and below top",
            fix="give the face's edges on the portrait, such as --face-box 120,80,360,400",
        )
    return PixelBox(*edges)
