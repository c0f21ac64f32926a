"""Drawn faces: detected by a small network, and embedded as a thumbnail with its place.

For the built-in model, which has learned drawn faces only; photographs are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceError, InputError, PortraitError
from ..geometry import PixelBox
from ..media.framing import MASK_RATIO
from ..messages import logger
from .analyzer import Face
from .detector import average, find_faces
from .scrfd import DetectedFace
from .selection import FaceChoice, select_face

THUMBNAIL_SIDE = 13

JUDGED_SIDE = 128
"""Pixels of the shorter side at which drawings and photographs are distinguished; smaller ones cannot be."""
JUDGED_SHARE = 0.6
"""Share of that side that counts, in the middle: walls are flat in photographs too."""
PALETTE_SIZE, GREY_PALETTE_SIZE, PALETTE_ROUNDS = 16, 5, 5
"""Colours of a palette; fewer for shades of a single one, which 16 would cover in any picture."""
MAX_GREY = 0.01
"""Second largest variance of the colours of a picture in shades of a single one, relative to the largest."""
MAX_PALETTE_DISTANCE = 0.09
"""Median distance of a drawing's pixels from its palette, relative to the spread of its colours."""
FLAT_STEP, MIN_FLAT = 2.5 / 255, 0.6
"""The largest difference of flat neighbours, and the share of them that makes a drawing."""


DRAWN = "a face drawn in flat colors, like the sample portraits"
WAY_ON = (
    "for photographs, get the released weights (Hallo3 Doctor, `hallo3 doctor`); or accept a poor result: "
    "`no_face`: whole picture (--whole-picture)"
)


@dataclass(frozen=True, slots=True)
class DrawnFaceAnalyzer:
    """A thumbnail of the face, with its place, is the embedding."""

    embedding_dim: int
    choice: FaceChoice = field(default_factory=FaceChoice)
    space: str = "drawn-face"

    def analyze(self, picture: Tensor) -> Face:
        """The chosen face in a picture [3, h, w] in 0..1. If none is found, it is where the choice says.

        Raises ``PortraitError`` for a photograph and ``FaceError`` without a face, unless the whole picture
        may be used; ``FaceError`` for a number that no face has."""
        height, width = picture.shape[1:]
        found = [DetectedFace(face.box, face.score, torch.zeros(5, 2)) for face in find_faces(picture)]
        boxes, index, place = tuple(face.box for face in found), None, self.choice.place
        whole = PixelBox(0, 0, width, height)
        box = whole
        if not looks_drawn(picture):
            self._refuse(PortraitError, "this is a photograph", "a photograph")
        elif not boxes and place is None:
            self._refuse(FaceError, "none is in this picture", "no drawn face")
        if boxes and (place is None or any(each.intersect(place).area > 0 for each in boxes)):
            face, notes = select_face(found, self.choice)
            for note in notes:
                logger.warning(note)
            index = next(n for n, each in enumerate(found) if each is face)
            box = boxes[index]
        elif place is not None:
            box = place.intersect(whole)
        return Face(
            mask=mask_face(box, height, width),
            embedding=embed_face(picture, box, self.embedding_dim),
            boxes=boxes,
            index=index,
        )

    def _refuse(self, error: type[InputError], reason: str, found: str) -> None:
        """Raise ``error``, or warn of it if the whole picture may be used."""
        headline = f"Drawn faces only: {reason}."
        if not self.choice.whole_picture:
            raise error(headline, found=f"{found}, for the built-in model", expected=DRAWN, fix=WAY_ON)
        logger.warning(f"{headline} The result will not resemble the person.")


def embed_face(picture: Tensor, box: PixelBox, embedding_dim: int = 512) -> Tensor:
    """The embedding [1, ``embedding_dim``] of the face in a box of a picture [3, h, w] in 0..1: a thumbnail
    of what the box shows, then the box's left, top, right and bottom in shares of the picture, both scaled to
    -1..1, then zeros. What is outside of the picture is cut off."""
    height, width = picture.shape[1:]
    rows, columns = _to_slices(box, height, width)
    thumbnail = average(picture[:, rows, columns], (THUMBNAIL_SIDE, THUMBNAIL_SIDE))[None].flatten(1)
    shares = [min(1.0, max(0.0, edge / side)) for edge, side in zip(box, (width, height) * 2, strict=True)]
    embedding = torch.cat((thumbnail, torch.tensor([shares]).to(thumbnail)), dim=1) * 2 - 1
    return F.pad(embedding, (0, embedding_dim - embedding.shape[1]))


def mask_face(box: PixelBox, height: int, width: int) -> Tensor:
    """What the reference network may see of a picture with a face in a box: uint8 [h, w] of 0 and 1, the box
    expanded by ``MASK_RATIO`` around its middle and cut at the picture's edges."""
    margin = (MASK_RATIO - 1) / 2
    across, down = (box.right - box.left) * margin, (box.bottom - box.top) * margin
    larger = PixelBox(box.left - across, box.top - down, box.right + across, box.bottom + down)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[_to_slices(larger, height, width)] = 1
    return mask


def _to_slices(box: PixelBox, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a box inside a picture, at least one of each."""
    left, right = (int(min(width, max(0, edge))) for edge in (box.left, round(box.right)))
    top, bottom = (int(min(height, max(0, edge))) for edge in (box.top, round(box.bottom)))
    left, top = min(left, width - 1), min(top, height - 1)
    return slice(top, max(top + 1, bottom)), slice(left, max(left + 1, right))


def looks_drawn(picture: Tensor) -> bool:
    """Whether a picture [3, h, w] in 0..1 is a drawing, not a photograph, judged by its middle.

    A drawing has few colours, or neighbours that are alike nearly everywhere, as in smooth computer graphics.
    Distances to the palette were at most 0.02 for procedural portraits as PNG; as JPEG of quality 75, 0.05
    from 256 px on and 0.08 at 128 px (strongly tinted, 0.092); for shaded heads 0.07; for photographed people
    0.097 to 0.18, whether resized, compressed or smoothed, of whom at most 0.49 was flat; for grey ones, with
    their smaller palette, 0.102 and more. Photographs in front of plain bright walls can pass. Below 128 px
    everything counts as drawn.
    """
    height, width = picture.shape[1:]
    if min(height, width) < JUDGED_SIDE:
        return True
    scale, side = JUDGED_SIDE / min(height, width), round(JUDGED_SHARE * JUDGED_SIDE)
    size = round(height * scale), round(width * scale)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    middle = average(picture, size)[:, top : top + side, left : left + side]
    middle = middle.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3).median(dim=3).values  # drops JPEG artefacts
    right = (middle[:, :-1, 1:] - middle[:, :-1, :-1]).abs().amax(dim=0)
    below = (middle[:, 1:, :-1] - middle[:, :-1, :-1]).abs().amax(dim=0)
    flat = (torch.maximum(right, below) < FLAT_STEP).float().mean()
    if float(flat) > MIN_FLAT:
        return True
    pixels = middle.flatten(1).T
    spread = (pixels - pixels.mean(dim=0)).square().sum(dim=1).mean().sqrt().clamp_min(0.02)
    spreads = cast("list[float]", torch.linalg.eigvalsh(pixels.T.cov()).tolist())
    colours = GREY_PALETTE_SIZE if spreads[1] < MAX_GREY * spreads[2] else PALETTE_SIZE
    ranks = torch.linspace(0, len(pixels) - 1, colours).long()
    palette = pixels[pixels.sum(dim=1).argsort()[ranks]]
    for _ in range(PALETTE_ROUNDS):
        nearest = torch.cdist(pixels, palette).argmin(dim=1)
        count = nearest.bincount(minlength=len(palette))[:, None]
        total = torch.zeros_like(palette).index_add_(0, nearest, pixels)
        palette = torch.where(count > 0, total / count.clamp_min(1), palette)
    distance = torch.cdist(pixels, palette).amin(dim=1).median() / spread
    return float(distance) < MAX_PALETTE_DISTANCE
