"""Portrait -> identity: what the reference network and the face analyzer extract, once per portrait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import FaceError
from .face.analyzer import Face
from .geometry import PixelBox, VideoShape
from .media.canvas import Canvas, fit
from .media.framing import Crop, face_box, plan_crop
from .media.paste_back import PasteBack, make_paste_back
from .storage.hashing import hash_tensor

MIN_VISIBLE_FACE = 0.5
"""Share of a speaker's face that is on the canvas."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedIdentityInfo:
    """What a file adds to an identity: the ``fingerprint`` of its model, and the hash of its ``content``."""

    fingerprint: Tensor
    content: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """How reference features were computed: the name of a ``precision`` and of ``approximations``, if
    known."""

    precision: str = ""
    approximations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Identity:
    """A portrait on the canvas, its face embedding in an embedding ``space``, and the reference features of
    every block [1, R, D].

    Of several speakers: embeddings [P, E], and the boxes of their faces on the canvas in pixels (``people``).

    ``paste_back`` (the photograph around the canvas) and ``preview`` [3, h, w] uint8 (what is used of it) do
    not decide frames and may be missing. ``saved_info`` is there if the identity comes from a file,
    ``reference_hash`` (of the reference network's input) if it does not.
    """

    canvas: Canvas
    space: str
    face_embedding: Tensor
    reference_features: tuple[Tensor, ...]
    people: tuple[PixelBox, ...] = ()
    paste_back: PasteBack | None = None
    preview: Tensor | None = None
    saved_info: SavedIdentityInfo | None = None
    reference_hash: str = ""
    provenance: Provenance = Provenance()

    def approximation_warning(self, now: Iterable[str]) -> str:
        """A warning if the features were computed with approximations that this run does not use; else
        empty."""
        more = [each for each in self.provenance.approximations if each not in tuple(now)]
        if not more:
            return ""
        return f"the identity was made with {', '.join(more)} (approximate), which this run does not change"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Portrait:
    """A ``picture`` [3, h, w] in 0..1, its ``face``, and the ``crop`` that is fitted to the ``canvas`` of
    ``shape``."""

    picture: Tensor
    face: Face
    crop: Crop
    canvas: Canvas
    shape: VideoShape

    @property
    def face_only(self) -> Canvas:
        """The canvas with everything but the face black, the reference network's input (facts 10)."""
        return fit(self.crop.of(self.picture), self.shape, mask=self.crop.of(self.face.mask))

    @property
    def paste_back(self) -> PasteBack:
        """The photograph around the crop."""
        return make_paste_back(self.picture, self.crop, self.shape)

    @property
    def people(self) -> tuple[PixelBox, ...]:
        """The faces of several speakers on the canvas, in pixels."""
        left, top, right, bottom = self.crop.visible_box(self.shape)
        rows, columns = self.canvas.rows, self.canvas.columns
        across = (columns.stop - columns.start) / (right - left)
        down = (rows.stop - rows.start) / (bottom - top)
        return tuple(
            PixelBox(
                columns.start + across * (face.left - left),
                rows.start + down * (face.top - top),
                columns.start + across * (face.right - left),
                rows.start + down * (face.bottom - top),
            )
            for face in self.face.people
        )

    def preview(self) -> Tensor:
        """A picture [3, H, W] uint8 of what was found and what is used."""
        from .media.portrait_preview import draw_portrait_preview  # Pillow's fonts: only where one is drawn

        face = self.face
        boxes, chosen = face.boxes or face.people, face.index
        if face.people:
            chosen = [n for n, box in enumerate(boxes) if box in face.people]
        picture = draw_portrait_preview(self.picture, face.mask, self.shape, self.crop, boxes, chosen)
        return (picture * 255).round().to(torch.uint8)


def frame_portrait(picture: Tensor, face: Face, shape: VideoShape, framing: str = "original") -> Portrait:
    """Crop a portrait and fit it to the canvas. Raises ``InputError`` for an unknown framing, and
    ``FaceError`` if one of several speakers is cut off."""
    height, width = picture.shape[1:]
    crop = plan_crop(height, width, face_box(face.mask), shape, framing)
    canvas = fit(crop.of(picture), shape)
    portrait = Portrait(picture=picture, face=face, crop=crop, canvas=canvas, shape=shape)
    for number, box in enumerate(portrait.people, 1):
        visible = box.intersect(PixelBox(0, 0, shape.width, shape.height)).area / box.area
        if visible < MIN_VISIBLE_FACE:
            raise FaceError(
                "A speaker is cut off by the crop.",
                found=f"{visible:.0%} of the face of speaker {number} on the canvas",
                expected="the faces of all speakers",
                fix="use another framing (--framing face), a picture of the canvas' shape, or fewer speakers",
            )
    return portrait


def build_identity(
    portrait: Portrait,
    space: str,
    *,
    encode: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], tuple[Tensor, ...]],
    keep_photograph: bool = False,
) -> Identity:
    """The identity of a portrait whose face was described in an embedding ``space``.

    The reference network sees the face only; the canvas that segments start from is unmasked (facts 10).
    ``encode`` makes scaled latents [1, C, 1, h, w] of pixels [1, 3, 1, H, W] in -1..1, ``features`` runs the
    reference network on them. ``keep_photograph`` adds what pasting back and a preview need.
    """
    face_only = portrait.face_only.pixels
    return Identity(
        reference_hash=hash_tensor(face_only),
        canvas=portrait.canvas,
        space=space,
        face_embedding=portrait.face.embedding,
        people=portrait.people,
        reference_features=features(encode(face_only)),
        paste_back=portrait.paste_back if keep_photograph else None,
        preview=portrait.preview() if keep_photograph else None,
    )
