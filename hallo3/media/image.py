"""Picture files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import PortraitError

MIN_SIDE = 64
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Formats to read, whatever the file's name. To open some of the others, Pillow starts a program."""


def read_picture(path: Path) -> Tensor:
    """A picture as [3, h, w] float32 in 0..1, rotated as its EXIF says. All modes become RGB, transparency
    white; an animation is its first frame. Raises ``PortraitError``."""
    if not path.is_file():
        raise PortraitError(
            "The portrait cannot be opened.",
            found=f"no file {path}",
            expected="a picture file",
            fix="check the path",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            formats = [each for each in PICTURE_FORMATS if each in Image.OPEN]
            with Image.open(path, formats=formats) as image:
                ImageOps.exif_transpose(image, in_place=True)
                rgb = _convert_to_rgb(image)
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
            found=f"{path.name}, {path.stat().st_size} bytes, of an unknown picture format",
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
    """Write a picture [3, h, w] in 0..1 in the format of the file's ending. Raises ``OSError``."""
    rgb = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(rgb).save(path)


def check_picture(picture: Tensor) -> Tensor:
    """The picture; raises ``PortraitError`` unless it is [3, h, w], at least 64 px per side, and in 0..1."""
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise PortraitError(
            "The portrait has the wrong layout.",
            found=str(list(picture.shape)),
            expected="[3, height, width]",
            fix="pass one RGB picture, channels first",
        )
    height, width = picture.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise PortraitError(
            "The portrait is too small.",
            found=f"{width} x {height} px",
            expected=f"at least {MIN_SIDE} px per side",
            fix="use a larger picture",
        )
    low, high = float(picture.amin()), float(picture.amax())
    if not (low >= 0 and high <= 1):
        bad = (~picture.isfinite().all(dim=0)).nonzero()
        place = f"NaN or infinity at x {int(bad[0, 1])}, y {int(bad[0, 0])}" if len(bad) else ""
        raise PortraitError(
            "The portrait's values cannot be used.",
            found=place or f"values from {low:g} to {high:g}",
            expected="finite values from 0 to 1",
            fix="scale the picture to 0..1",
        )
    return picture


def _convert_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """[h, w, 3]."""
    if image.mode.startswith(("I", "F")):  # Pillow would clip 16-bit and floating-point grey, not scale it
        grey = np.array(image, dtype=np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("pixels that are not finite")
        grey *= 255.0 / (1.0 if image.mode == "F" and grey.max(initial=0.0) <= 1 else 65535.0)
        return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
