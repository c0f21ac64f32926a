"""ArcFace: the identity of a face as 512 numbers (glintr100 of antelopev2).

The face is rotated and scaled so that its five landmarks lie as near as possible to where the network learned
to see them (Deng et al. 2019, arXiv 1801.07698; the fit: Umeyama 1991, TPAMI 13(4)).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceError
from ..onnx_model import Expected
from .scrfd import FaceNetwork

RECOGNIZER_FILENAME = "glintr100.onnx"
ARCFACE_SPACE = "arcface-glintr100"
CROP_SIDE, EMBEDDING_DIM = 112, 512
TEMPLATE = (
    *((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366)),
    *((41.5493, 92.3655), (70.7299, 92.2041)),
)
"""Eyes, nose and corners of the mouth in the aligned 112 x 112 pixels: x and y."""


class Recognizer(FaceNetwork):
    expected = Expected(
        sha256="4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
        input=(None, 3, CROP_SIDE, CROP_SIDE),
        channels=(EMBEDDING_DIM,),
    )

    def __call__(self, picture: Tensor, landmarks: Tensor) -> Tensor:
        """The embedding [1, 512] of the face with these landmarks [5, 2] in a picture [3, h, w] in 0..1. It
        is not normalised, because Hallo3 was trained so. Errors as of :func:`align`."""
        levels = align(picture, landmarks)
        return self.network((levels[None] - 127.5) / 127.5)[0].reshape(1, -1)


def align(picture: Tensor, landmarks: Tensor) -> Tensor:
    """Crop a face as ArcFace expects it, [3, 112, 112] RGB in whole levels of 0..255. ``picture`` [3, h, w]
    in 0..1; ``landmarks`` [5, 2] x and y in its pixels. Bilinear; outside of the picture is black. Raises
    ``FaceError`` if the landmarks coincide or are not finite."""
    fitted = fit_similarity(landmarks.double().numpy(), np.array(TEMPLATE))
    matrix = np.concatenate((fitted, [[0.0, 0.0, 1.0]]))
    back = torch.from_numpy(np.linalg.inv(matrix)[:2])
    line = torch.arange(CROP_SIDE, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), dim=-1) @ back.T
    height, width = picture.shape[1:]
    sides = torch.tensor([max(1, width - 1), max(1, height - 1)], dtype=torch.float64)
    grid = (points / sides * 2 - 1).float()
    crop = F.grid_sample(picture[None].float(), grid[None], padding_mode="zeros", align_corners=True)
    return (crop[0] * 255).round().clamp(0, 255)


def fit_similarity(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix [2, 3] that rotates, scales and shifts ``points`` [n, 2] to ``targets`` [n, 2]. Least
    squares without mirroring (Umeyama 1991, equations 39 to 43). Raises ``FaceError``."""
    if not np.isfinite(points).all():
        raise _landmark_error("numbers that are not finite")
    spread = points - points.mean(axis=0)
    variance = float(np.square(spread).sum(axis=1).mean())
    covariance = (targets - targets.mean(axis=0)).T @ spread / len(points)
    left, values, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    if min(variance, float((values * signs).sum())) < 1e-6:
        raise _landmark_error("eyes, nose and mouth at one point")
    rotation = left @ np.diag(signs) @ right * float((values * signs).sum() / variance)
    shift = targets.mean(axis=0) - rotation @ points.mean(axis=0)
    return np.concatenate((rotation, shift[:, None]), axis=1)


def _landmark_error(found: str) -> FaceError:
    return FaceError(
        "The face's landmarks cannot be used.",
        found=found,
        expected="five points on a face",
        fix="try another picture, or choose another face",
    )
