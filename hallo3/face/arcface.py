"""ArcFace: who a face is, as 512 numbers (glintr100 of antelopev2).

The face is turned and scaled so that its five landmarks lie as near as possible where the network has
learned to see them (Deng et al. 2019, arXiv 1801.07698; the fit: Umeyama 1991, TPAMI 13(4)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceError
from ..onnx_model import Expected, Network, open_network
from .scrfd import ANTELOPE

FILE = "glintr100.onnx"
SPACE = "arcface-glintr100"
SIDE, NUMBERS = 112, 512
EXPECTED = Expected(
    sha256="4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    input=(None, 3, SIDE, SIDE),
    channels=(NUMBERS,),
)
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where eyes, nose and corners of the mouth lie on the aligned 112 x 112 pixels: x and y."""


@dataclass(frozen=True)
class Recognizer:
    """Describes faces with the network in a file, which is opened when it is first used."""

    path: Path
    unverified: bool = False

    @cached_property
    def network(self) -> Network:
        """Errors as of :func:`open_network`."""
        return open_network(self.path, EXPECTED, ANTELOPE, unverified=self.unverified)

    def __call__(self, picture: Tensor, landmarks: Tensor) -> Tensor:
        """The embedding [1, 512] of the face with these landmarks [5, 2] on a picture [3, h, w] in 0..1.

        As the network gives it: its length is not made 1, because Hallo3 was trained so. Errors as of
        :func:`align`.
        """
        levels = align(picture, landmarks)
        return self.network((levels[None] - 127.5) / 127.5)[0].reshape(1, -1)


def align(picture: Tensor, landmarks: Tensor) -> Tensor:
    """A face as ArcFace sees it, [3, 112, 112] RGB in whole levels of 0..255.

    ``picture`` [3, h, w] in 0..1; ``landmarks`` [5, 2] x and y in its pixels. Bilinear; what lies outside
    the picture is black. Raises ``FaceError`` when the landmarks lie on one spot or are not finite.
    """
    there = torch.from_numpy(_inverse(similarity(landmarks.double().numpy(), np.array(TEMPLATE))))
    line = torch.arange(SIDE, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack((x, y, torch.ones_like(x)), dim=-1) @ there.T
    height, width = picture.shape[1:]
    sides = torch.tensor([max(1, width - 1), max(1, height - 1)], dtype=torch.float64)
    grid = (places / sides * 2 - 1).float()
    seen = F.grid_sample(picture[None].float(), grid[None], padding_mode="zeros", align_corners=True)
    return (seen[0] * 255).round().clamp(0, 255)


def similarity(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix [2, 3] that turns, scales and shifts ``points`` [n, 2] nearest to ``targets`` [n, 2].

    Nearest in the sum of squares, never mirrored (Umeyama 1991, equations 39 to 43). Raises ``FaceError``
    for points that lie on one spot or are not finite.
    """
    if not np.isfinite(points).all():
        raise _unusable("numbers that are not finite")
    spread = points - points.mean(axis=0)
    variance = float(np.square(spread).sum(axis=1).mean())
    covariance = (targets - targets.mean(axis=0)).T @ spread / len(points)
    left, values, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    if min(variance, float((values * signs).sum())) < 1e-6:
        raise _unusable("eyes, nose and mouth on one spot")
    turned = left @ np.diag(signs) @ right * float((values * signs).sum() / variance)
    shift = targets.mean(axis=0) - turned @ points.mean(axis=0)
    return np.concatenate((turned, shift[:, None]), axis=1)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way back of a matrix [2, 3]."""
    return np.linalg.inv(np.concatenate((matrix, [[0.0, 0.0, 1.0]])))[:2]


def _unusable(found: str) -> FaceError:
    return FaceError(
        "The face's landmarks cannot be used.",
        found=found,
        expected="five points on a face",
        fix="try another picture, or choose another face",
    )
