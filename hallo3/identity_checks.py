"""What an identity's file may hold: it may come from anybody."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .boxes import PixelBox
from .identity import Made
from .media.surroundings import LONGEST, Surroundings

BRIGHTEST, LARGEST = 4.0, 1e6
"""Magnitudes beyond which there is no canvas, and no embedding, feature or weight."""
EDGE = 2.0
"""Pixels by which a place may hang over its photograph."""
MOST_WORDS, LONGEST_WORD = 8, 60
"""How much is said of how features were made."""


def check_numbers(name: str, tensor: Tensor, shape: tuple[int | None, ...], most: float = LARGEST) -> None:
    """Raises ``ValueError`` for other sizes (None is any), or numbers that nothing computes with."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(w in (None, f) for w, f in zip(shape, sizes, strict=True))
    if not fits or 0 in sizes or not tensor.is_floating_point():
        raise ValueError(f"{name} of {list(sizes)} {tensor.dtype}")
    if not bool((tensor.float().abs() <= most).all()):
        raise ValueError(f"{name} with numbers beyond {most:g}, or none at all")


def check_shown(name: str, picture: Tensor) -> None:
    """Raises ``ValueError`` for anything but a picture in 8 bits."""
    h, w = picture.shape[1:] if picture.ndim == 3 else (0, 0)
    if picture.dtype != torch.uint8 or len(picture) != 3 or not (2 <= h <= LONGEST and 2 <= w <= LONGEST):
        raise ValueError(f"{name} of {list(picture.shape)} {picture.dtype}")


def placed(photograph: Tensor, place: Any) -> Surroundings:
    """Raises ``ValueError`` for a photograph that is none, or a place that is not on it."""
    check_shown("photograph", photograph)
    height, width = photograph.shape[1:]
    box = PixelBox(*(float(edge) for edge in place))
    whole = PixelBox(-EDGE, -EDGE, width + EDGE, height + EDGE)
    inside = box == box.common(whole) and box.right - box.left >= 1 and box.bottom - box.top >= 1
    if height % 2 or width % 2 or not inside:
        raise ValueError(f"a place at {list(place)} on a photograph of {width} x {height} px")
    return Surroundings(photograph=photograph, place=box)


def stretch(said: Any, size: int) -> slice:
    """Where the picture is on a canvas side. Raises ``TypeError`` or ``ValueError``."""
    start, stop = said
    whole = type(start) is int and type(stop) is int
    if not (whole and 0 <= start < stop <= size):
        raise ValueError(f"a picture at {said} of {size}")
    return slice(start, stop)


def made_as(said: Any) -> Made:
    """What a file says of how its features were made; None, as in older files, is nothing. Raises
    ``KeyError``, ``TypeError`` or ``ValueError``."""
    if said is None:
        return Made()
    listed = said["approximations"]
    words = [said["precision"], *listed]
    sound = all(type(word) is str and word.isprintable() and len(word) <= LONGEST_WORD for word in words)
    if type(listed) is not list or len(words) > MOST_WORDS or not sound:
        raise ValueError("no words for how its features were made")
    return Made(words[0], tuple(words[1:]))
