"""Portrait -> identity: what the reference network and the face analyzer extract, once per picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .face.analyzer import Face
from .geometry import VideoShape
from .media.canvas import Canvas, fit
from .media.framing import Crop, face_box, plan_crop
from .media.paste_back import PasteBack, make_paste_back
from .media.portrait_preview import draw_portrait_preview
from .storage.hashing import hash_tensor


@dataclass(frozen=True, slots=True, eq=False)
class SavedIdentityInfo:
    """What a file adds to an identity: the ``fingerprint`` of the model that it is for, and the hash of its
    ``content``."""

    fingerprint: Tensor
    content: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """How reference features were computed: in the numbers of a ``precision``, by its name, and with which
    ``approximations``. Empty where nobody says."""

    precision: str = ""
    approximations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """A portrait on the canvas, who is on it, and the reference features of every block [1, R, D].

    ``space`` is the embedding space of ``face_embedding``. ``surroundings`` is the photograph that the canvas
    was cut out of, to paste frames back into; ``overview`` [3, h, w] uint8 shows what is used of it. Neither
    decides a frame. ``saved`` is there if it comes out of a file, ``seen`` is the hash of
    what the reference network saw if it does not. ``made`` says how the features were computed.
    """

    canvas: Canvas
    space: str
    face_embedding: Tensor
    reference_features: tuple[Tensor, ...]
    surroundings: PasteBack | None = None
    overview: Tensor | None = None
    saved: SavedIdentityInfo | None = None
    seen: str = ""
    made: Provenance = Provenance()

    def carries(self, now: Iterable[str]) -> str:
        """A warning for a run that makes the approximations ``now`` and no others, if the features hold
        any more; else nothing."""
        more = [each for each in self.made.approximations if each not in tuple(now)]
        if not more:
            return ""
        return f"the identity was made by {', '.join(more)} (approximate); its features stay so in this run"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Portrait:
    """A ``picture`` [3, h, w] in 0..1, the ``face`` on it, and the ``crop`` of it that is fitted to the
    ``canvas`` of ``shape``."""

    picture: Tensor
    face: Face
    crop: Crop
    canvas: Canvas
    shape: VideoShape

    @property
    def face_only(self) -> Canvas:
        """The same with everything but the face black, as the reference network sees it (facts 10)."""
        return fit(self.crop.of(self.picture), self.shape, mask=self.crop.of(self.face.mask))

    @property
    def surroundings(self) -> PasteBack:
        """The photograph around the crop."""
        return make_paste_back(self.picture, self.crop, self.shape)

    def overview(self) -> Tensor:
        """A picture [3, H, W] uint8 of what is used and what was found."""
        shown = draw_portrait_preview(
            self.picture,
            self.face.mask,
            self.shape,
            crop=self.crop,
            faces=self.face.boxes,
            chosen=self.face.chosen,
        )
        return (shown * 255).round().to(torch.uint8)


def frame_portrait(picture: Tensor, face: Face, shape: VideoShape, framing: str = "original") -> Portrait:
    """The portrait as it will be used. Raises ``InputError`` for a framing that there is not."""
    height, width = picture.shape[1:]
    crop = plan_crop(height, width, face_box(face.mask), shape, framing)
    canvas = fit(crop.of(picture), shape)
    return Portrait(picture=picture, face=face, crop=crop, canvas=canvas, shape=shape)


def build_identity(
    portrait: Portrait,
    space: str,
    *,
    encode: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], tuple[Tensor, ...]],
) -> Identity:
    """The identity of a portrait whose face was described in an embedding ``space``.

    The reference network sees the picture with everything but the face black; the canvas that segments
    start from is unmasked (facts 10). ``encode`` makes scaled latents [1, C, 1, h, w] of pixels
    [1, 3, 1, H, W] in -1..1, ``features`` is the reference network on these.
    """
    face_only = portrait.face_only.pixels
    return Identity(
        seen=hash_tensor(face_only),
        canvas=portrait.canvas,
        space=space,
        face_embedding=portrait.face.embedding,
        reference_features=features(encode(face_only)),
        surroundings=portrait.surroundings,
        overview=portrait.overview(),
    )
