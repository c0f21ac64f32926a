"""Drawn faces: detected by two eyes above a mouth in skin of one flat colour, and embedded as a thumbnail.

For the built-in model, which has learned drawn faces only; photographs are refused. OpenCV's and MediaPipe's
detectors know photographs, and cartoon detectors come with weights of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceError, InputError, PortraitError
from ..geometry import PixelBox
from ..media.framing import MASK_RATIO
from ..messages import logger
from .analyzer import Face
from .scrfd import DetectedFace
from .selection import FaceChoice, select_face

SEARCH_SIDE = 64
"""Pixels per side of the picture that is searched."""
MIDDLE = (slice(24, 46), slice(22, 42))
"""Where the skin is searched first: the middle, below the hair."""
SKIN_TOLERANCE = 0.04
"""Largest distance of skin colours from their mean, relative to its brightness."""
MIN_SKIN = 0.04
"""Share of the picture that a face's skin fills."""
THUMBNAIL_SIDE = 13

MAX_SEARCHED = 1_200_000
"""Pixels of the largest scale that is searched; each further one has half the width and height."""
MIN_SCALE_SIDE, MIN_REGION = 48, 12
"""Pixels of the shorter side of the smallest scale, and of a face's skin at any scale."""
MAX_STEPS = (0.012, 0.035)
"""Largest steps between neighbours of a skin, relative to their brightness: one for skin that is like what
surrounds it, one for noise and shades."""
REGION_ASPECT, REGION_FILL = (0.55, 2.2), 0.3
MAP_SIDE = 32
"""Columns of the map of what is not skin; rows as many as its shape needs. Measures below are in these."""
EYES, BRIDGE, TEMPLES, CHEEKS = ((5, 13), (19, 27)), (15, 17), ((1, 4), (28, 31)), ((6, 13), (19, 26))
MOUTH, LIP = (12, 20), (13, 19)
"""Columns of features."""
LOWEST_EYES, MOUTH_BELOW = 0.66, (9, 25)
MIN_SCORE = 0.41
"""Of eyes and mouth. Drawn portraits had 0.46 and more; what is most like them, house fronts, up to 0.36."""
SAME_FACE, OLD_FACE = 0.3, 0.5
"""Intersection over union: of one face found twice; of a face and the box that :func:`face_box` gives it."""

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


class Box(NamedTuple):
    """A rectangle in shares of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def expand(self, ratio: float) -> Box:
        """Around the same middle, cut at the picture's edges."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        half_width, half_height = (self.right - self.left) * ratio / 2, (self.bottom - self.top) * ratio / 2
        edges = (x - half_width, y - half_height, x + half_width, y + half_height)
        return Box(*(min(1.0, max(0.0, edge)) for edge in edges))

    def to_slices(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns of pixels, at least one of each."""
        top, left = int(self.top * height), int(self.left * width)
        bottom, right = max(top + 1, round(self.bottom * height)), max(left + 1, round(self.right * width))
        return slice(top, bottom), slice(left, right)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)
DRAWN = "a face drawn in flat colors, seen from the front, like the sample portraits"
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
        boxes, index = find_faces(picture), None
        pixels = tuple(
            PixelBox(*(edge * side for edge, side in zip(box, (width, height) * 2, strict=True)))
            for box in boxes
        )
        place, box = self.choice.place, WHOLE
        ways: dict[str, Any] = {"expected": DRAWN, "fix": WAY_ON}
        if not looks_drawn(picture):
            found = "a photograph, for the built-in model"
            self._refuse(PortraitError("Drawn faces only: this is a photograph.", found=found, **ways))
        elif not boxes and place is None:
            found = "no drawn face, for the built-in model"
            self._refuse(FaceError("Drawn faces only: none is in this picture.", found=found, **ways))
        if boxes and (place is None or any(each.intersect(place).area > 0 for each in pixels)):
            faces = [DetectedFace(each, 1.0, torch.zeros(5, 2)) for each in pixels]
            face, notes = select_face(faces, self.choice)
            for note in notes:
                logger.warning(note)
            index = next(n for n, each in enumerate(faces) if each is face)
            box = boxes[index]
        elif place is not None:
            edges = (place.left / width, place.top / height, place.right / width, place.bottom / height)
            box = Box(*edges).expand(1)
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[box.expand(MASK_RATIO).to_slices(height, width)] = 1
        rows, columns = box.to_slices(height, width)
        thumbnail = _average(picture[:, rows, columns], (THUMBNAIL_SIDE, THUMBNAIL_SIDE))[None].flatten(1)
        embedding = torch.cat((thumbnail, torch.tensor([box]).to(thumbnail)), dim=1) * 2 - 1
        embedding = F.pad(embedding, (0, self.embedding_dim - embedding.shape[1]))
        return Face(mask=mask, embedding=embedding, boxes=pixels, index=index)

    def _refuse(self, error: InputError) -> None:
        """Raise ``error``, or warn of it if the whole picture may be used."""
        if not self.choice.whole_picture:
            raise error
        logger.warning(f"{error.headline} The result will not resemble the person.")


def find_faces(picture: Tensor) -> list[Box]:
    """The drawn faces in a picture [3, h, w] in 0..1 from left to right: upright, frontal, from about 24 px
    (in a picture above ``MAX_SEARCHED``, when it is reduced to that)."""
    found = [(_score(region), box) for region, box in _find_regions(picture)]
    found = sorted((each for each in found if each[0] >= MIN_SCORE), reverse=True)
    faces, middle = list[Box](), face_box(picture)
    for _, box in found:
        if not any(_are_same(box, face) for face in faces):
            faces.append(box)
    if middle is not None:  # as in all videos until others were found, too
        faces = [middle if PixelBox(*middle).overlap(PixelBox(*face)) > OLD_FACE else face for face in faces]
    return sorted(faces, key=lambda face: face.left + face.right)


def _are_same(one: Box, other: Box) -> bool:
    """Whether two boxes overlap much, or one lies in the other for the most part."""
    a, b = PixelBox(*one), PixelBox(*other)
    return a.overlap(b) > SAME_FACE or a.intersect(b).area > 0.6 * min(a.area, b.area)


def _find_regions(picture: Tensor) -> Iterator[tuple[NDArray[np.float32], Box]]:
    """Maps [rows, MAP_SIDE] of what is not skin in the region of a flat colour, and the regions' boxes."""
    height, width = picture.shape[1:]
    scale = min(1.0, (MAX_SEARCHED / (height * width)) ** 0.5)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = picture if scale == 1 else _average(picture, size)
    while True:
        rows, columns = small.shape[1:]
        pixels = small.float().numpy()
        for step in MAX_STEPS:
            for labels, label, box in _segment(pixels, step):
                part = torch.from_numpy(labels[box[1] : box[3], box[0] : box[2]] != label)[None, None].float()
                size = round(MAP_SIDE * part.shape[2] / part.shape[3]), MAP_SIDE
                features = F.interpolate(part, size, mode="bilinear", antialias=True)
                yield (
                    features[0, 0].numpy(),
                    Box(box[0] / columns, box[1] / rows, box[2] / columns, box[3] / rows),
                )
        if min(rows, columns) < 2 * MIN_SCALE_SIDE:
            return
        small = F.avg_pool2d(small[None].float(), 2)[0]


def _segment(
    pixels: NDArray[np.float32], step: float
) -> Iterator[tuple[NDArray[np.int64], int, tuple[int, int, int, int]]]:
    """Connected regions of neighbours that are alike in pixels [3, h, w], of a face's size and shape: labels
    [h, w], the region's label, and its left, top, right and bottom."""
    height, width = pixels.shape[1:]
    limit = step**2 * np.square(pixels).sum(axis=0).clip(0.06)
    beside = np.square(np.diff(pixels, axis=2)).sum(axis=0) < np.minimum(limit[:, 1:], limit[:, :-1])
    below = np.square(np.diff(pixels, axis=1)).sum(axis=0) < np.minimum(limit[1:], limit[:-1])
    starts = np.ones((height, width), bool)
    starts[:, 1:] = ~beside
    runs = starts.cumsum().reshape(height, width) - 1
    first = np.flatnonzero(starts)
    labels = _connect(runs[:-1][below], runs[1:][below], len(first))
    lengths = np.diff(np.append(first, starts.size))
    areas = np.bincount(labels, lengths)
    order = np.flatnonzero(areas[labels] >= REGION_FILL * MIN_REGION**2)
    if not len(order):
        return
    order = order[labels[order].argsort(kind="stable")]
    cuts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    row, column = first[order] // width, first[order] % width
    left, top = np.minimum.reduceat(column, cuts), np.minimum.reduceat(row, cuts)
    right = np.maximum.reduceat(column + lengths[order], cuts)
    bottom = np.maximum.reduceat(row, cuts) + 1
    wide, tall, area = right - left, bottom - top, areas[labels[order][cuts]]
    fits = (np.minimum(wide, tall) >= MIN_REGION) & (
        (tall > REGION_ASPECT[0] * wide)
        & (tall < REGION_ASPECT[1] * wide)
        & (area > REGION_FILL * wide * tall)
    )
    fits &= ((left > 0) | (right < width)) & ((top > 0) | (bottom < height))  # else a wall
    image = labels[runs]
    for label, *box in zip(
        *(each[fits].tolist() for each in (labels[order][cuts], left, top, right, bottom)), strict=True
    ):
        yield image, label, (box[0], box[1], box[2], box[3])


def _connect(one: NDArray[np.int64], other: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The smallest number that each of ``count`` nodes is connected with, by edges from ``one`` to ``other``.
    scipy.ndimage.label knows masks only, and librosa alone brings it."""
    labels = np.arange(count)
    while True:
        apart = labels[one] != labels[other]
        one, other = one[apart], other[apart]
        if not len(one):
            return labels
        a, b = labels[one], labels[other]
        np.minimum.at(labels, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter


def _score(features: NDArray[np.float32]) -> float:
    """How well a map of what is not skin shows a face: two eyes alike with skin between, beside and below
    them, and a mouth below with skin above it."""
    rows = len(features)

    def measure(columns: tuple[int, int], start: int, count: int) -> NDArray[np.float64]:
        """Means of the rows from ``start`` before each row on; what is outside is repeated."""
        means = features[:, columns[0] : columns[1]].mean(axis=1, dtype=np.float64)
        places = np.arange(rows)[:, None] + start + np.arange(count)
        return means[places.clip(0, rows - 1)].mean(axis=1)

    left, right = (measure(each, -2, 4) for each in EYES)
    eyes = np.minimum(left, right) - measure(BRIDGE, -2, 4) - np.abs(left - right) / 2
    beside = 0.8 - np.maximum(*(measure(each, -2, 4) for each in TEMPLES))
    under = 0.8 - 2 * np.maximum(*(measure(each, 5, 4) for each in CHEEKS))
    upper = np.minimum(np.minimum(eyes, beside), under)
    mouth, lip, best = measure(MOUTH, -1, 2), measure(LIP, -1, 2), 0.0
    for eye in np.flatnonzero(upper >= MIN_SCORE):
        if 4 <= eye < LOWEST_EYES * rows:
            places = np.arange(eye + MOUTH_BELOW[0], min(rows - 1, eye + MOUTH_BELOW[1]))
            skin = np.minimum.accumulate(lip[eye + 3 :])[places - eye - 6]
            best = max(best, min(float(upper[eye]), float((mouth[places] - skin).max(initial=0.0))))
    return best


def face_box(picture: Tensor) -> Box | None:
    """The extent of a drawn face's skin in a picture [3, h, w] in 0..1, None if there is none. What reaches
    from edge to edge is a wall."""
    small = _average(picture, (SEARCH_SIDE, SEARCH_SIDE))
    colours = small[:, *MIDDLE].flatten(1).T
    brightness = _norm(colours, 1)
    near = torch.cdist(colours, colours) < SKIN_TOLERANCE * brightness[:, None].clamp_min(0.1)
    votes = near.sum(dim=1)
    skin = colours[near[votes.argmax()]].mean(dim=0)
    distance = _norm(small - skin[:, None, None], 0)
    alike = distance < SKIN_TOLERANCE * _norm(skin, 0).clamp_min(0.1)
    region = _flood(alike, votes.argmax())
    if region.float().mean() < MIN_SKIN:  # started on an edge between skin and something like it
        region = _flood(alike, distance[MIDDLE].argmin())
    if region.float().mean() < MIN_SKIN:
        return None
    rows, columns = region.any(dim=1).nonzero(), region.any(dim=0).nonzero()
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    box = Box(*(edge / SEARCH_SIDE for edge in edges))
    is_wall = (box.left, box.right) == (0, 1) or (box.top, box.bottom) == (0, 1)
    return None if is_wall else box


def _average(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Average areas of a picture to [3, *size], a row at a time: a large picture is not copied as a whole."""
    height, (rows, columns) = picture.shape[1], size
    edges = ((row * height // rows, -(-(row + 1) * height // rows)) for row in range(rows))
    means = [F.adaptive_avg_pool2d(picture[:, top:bottom].float(), (1, columns)) for top, bottom in edges]
    return torch.cat(means, dim=1)


def _norm(colours: Tensor, dim: int) -> Tensor:
    return cast(Tensor, colours.norm(dim=dim))  # untyped in torch


def _flood(alike: Tensor, seed: Tensor) -> Tensor:
    """The connected part of a region [h, w] around ``seed``, an index into ``MIDDLE``."""
    rows, columns = MIDDLE
    row, column = divmod(int(seed), columns.stop - columns.start)
    region = torch.zeros_like(alike, dtype=torch.float32)
    region[rows.start + row, columns.start + column] = 1
    for _ in range(2 * SEARCH_SIDE):
        larger = F.max_pool2d(region[None, None], 3, stride=1, padding=1)[0, 0] * alike
        if torch.equal(larger, region):
            break
        region = larger
    return region > 0


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
    middle = _average(picture, size)[:, top : top + side, left : left + side]
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
