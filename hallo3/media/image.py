"""Pictures from files: upright, three channels, 0..1; and to files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import PortraitError

MINIMUM_SIDE = 64
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Kinds of files that are read, whatever they are called; of others some would start a program."""
PAPER = (255, 255, 255)
"""Transparent parts are shown as on white paper."""


def read_picture(path: Path) -> Tensor:
    """A picture file -> [3, h, w] float32 in 0..1, turned upright by its EXIF mark.

    Grey, palette, CMYK and 16-bit pictures become RGB, transparency becomes white, of an animation the
    first frame is used. Raises ``PortraitError``.
    """
    if not path.is_file():
        raise PortraitError(
            "The portrait cannot be opened.",
            found=f"no file {path}",
            expected="a picture file",
            fix="check the path",
        )
    try:
        rgb = _decoded(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PortraitError(
            "The portrait is too large.",
            found=str(error).split(",")[0],
            expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels",
            fix="scale the picture down first",
        ) from error
    except UnidentifiedImageError as error:
        raise PortraitError(
            "The portrait cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes, of no known picture format",
            expected="a PNG, JPEG, WebP or similar picture",
            fix="open it in a picture program and save it as PNG",
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise PortraitError(
            "The portrait is damaged.",
            found=f"{path.name}: {error}",
            expected="a complete picture file",
            fix="copy or export the picture again",
        ) from error
    return check_picture(torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255))


def write_picture(picture: Tensor, path: Path) -> None:
    """A picture [3, h, w] in 0..1 as a file of the kind that its name says. Raises ``OSError``."""
    rgb = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(rgb).save(path)


def check_picture(picture: Tensor) -> Tensor:
    """The picture, if it can be a portrait: [3, h, w], at least 64 px a side, finite, in 0..1."""
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise PortraitError(
            "The portrait has the wrong layout.",
            found=str(list(picture.shape)),
            expected="[3, height, width]",
            fix="pass one RGB picture, channels first",
        )
    height, width = picture.shape[1:]
    if min(height, width) < MINIMUM_SIDE:
        raise PortraitError(
            "The portrait is too small.",
            found=f"{width} x {height} px",
            expected=f"at least {MINIMUM_SIDE} px a side",
            fix="use a larger picture",
        )
    low, high = float(picture.amin()), float(picture.amax())
    if not (low >= 0 and high <= 1):
        where = (~picture.isfinite().all(dim=0)).nonzero()
        bad = f"NaN or infinity at x {int(where[0, 1])}, y {int(where[0, 0])}" if len(where) else ""
        raise PortraitError(
            "The portrait's values cannot be used.",
            found=bad or f"values from {low:g} to {high:g}",
            expected="finite values from 0 to 1",
            fix="scale the picture to 0..1",
        )
    return picture


def _decoded(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[h, w, 3], upright. The picture's other forms are gone from memory when it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        with Image.open(path, formats=[kind for kind in KINDS if kind in Image.OPEN]) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)


def _to_rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(np.array(image, dtype=np.float32), image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (*PAPER, 255))
        paper.alpha_composite(image)
        image = paper
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(
    grey: np.ndarray[tuple[int, ...], np.dtype[np.float32]], mode: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """16-bit and floating grey: Pillow's own conversion would clip instead of scale."""
    if not np.isfinite(grey).all():
        raise ValueError("pixels that are no finite numbers")
    full = 1.0 if mode == "F" and grey.max(initial=0.0) <= 1 else 65535.0
    grey *= 255.0 / full
    values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = grey.clip(0, 255).round().astype(np.uint8)
    return np.repeat(values[:, :, None], 3, axis=2)
