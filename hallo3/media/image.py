"""Picture files."""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from torch import Tensor

from ..errors import PortraitError
from ..messages import logger
from ..storage.files import open_regular, write_atomic, write_error
from ..units import format_bytes

MIN_SIDE = 64
MAX_PIXELS = 250_000_000
"""A picture file with more is refused by its header. Phones make 200 megapixels."""
FULL_PIXELS, REDUCED_PIXELS = 89_478_485, 50_000_000
"""A picture with more pixels than the first is halved until it has at most the second."""
MAX_PIXELS_PER_BYTE = 100
"""Of a picture that is read as a whole to be reduced. Photos have less than 10; the bombs, thousands."""
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Formats to read, whatever the file's name. To open some of the others, Pillow starts a program."""
BITS_PER_SAMPLE, MAX_SAMPLE_VALUES = 258, (281, 341)
"""Tags of TIFF."""
MAX_16_BITS = 65535
COLOUR_NOTES = {"icc_profile", "nclx_profile", "gamma", "chromaticity", "exif"}
"""What Pillow's notes of a picture may say about its colours."""
HEADER_BYTES = 1 << 16
ALBUMS = ("MPO", "HEIF")
"""Formats that often hold other pictures beside the photo: depth, previews, gain."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture's ``pixels`` [3, h, w] in 0..1, and what they owe to more than the file's own pixels:
    ``changes`` of colours, transparency, size or brightness."""

    pixels: Tensor
    changes: tuple[str, ...]


def read_picture(path: Path) -> Tensor:
    """A picture as [3, h, w] float32 in 0..1, rotated as its EXIF says. All modes become RGB, all colour
    spaces sRGB, transparency white; an animation is its first frame; more than ``FULL_PIXELS`` are reduced.
    Raises ``PortraitError``."""
    return read_picture_file(path).pixels


def read_picture_file(path: Path, *, on_white: bool = True) -> PictureFile:
    """As :func:`read_picture`; unless ``on_white``, transparency is ignored."""
    with _open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit counts
        try:
            rgb, changes = _read_rgb(_identify(file, path), file, path.name, on_white)
        except Image.DecompressionBombError as error:  # in WebP and TIFF, by the limit of the whole process
            limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000} megapixels in this format"
            raise _size_error(f"{path.name}: {str(error).split(' exceeds')[0]}", limit) from error
        except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error) as error:
            raise PortraitError(
                "The portrait is damaged.",
                found=f"{path.name}: {error}",
                expected="a complete picture file",
                fix="copy or export the picture again",
            ) from error
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255)
    return PictureFile(check_picture(pixels), tuple(changes))


def write_picture(picture: Tensor, path: Path) -> None:
    """Write a picture [3, h, w] in 0..1 in the format of the file's ending: complete, or not at all. Raises
    ``OutputError``."""
    rgb = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    encoded = BytesIO()
    Image.fromarray(rgb).save(encoded, Image.registered_extensions()[path.suffix.lower()])
    try:
        write_atomic(path.resolve(), [encoded.getvalue()])
    except OSError as error:
        raise write_error("The picture cannot be saved.", path, error) from error


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


def _open_file(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        found, fix = f"{path}: {error.strerror or error}", "check the path, and that you may read the file"
        if address := re.match(r"([A-Za-z][A-Za-z0-9+]+):/+(?=[^/])", str(path)):
            found = f"an address, {address[1]}://{str(path)[address.end() :]}"
            fix = "save the picture from there, and give the path of its file"
        elif path.is_dir():
            found, fix = f"the folder {path}", "give the path of one picture"
        elif str(path) == "-" or (path.exists() and not path.is_file()):
            found, fix = (
                f"{path}, which is a pipe or a device",
                "save the picture, and give the path of its file",
            )
        elif not path.exists():
            found, fix = f"no file {path}", "check the path"
        raise PortraitError(
            "The portrait cannot be opened.", found=found, expected="a picture file", fix=fix
        ) from error


def _identify(file: BinaryIO, path: Path) -> ImageFile:
    """The picture with its header read, by its content. ``Image.open`` is not used, because its limit of
    pixels belongs to the whole process. Raises what Pillow raises, and ``PortraitError``."""
    start, damage = file.read(16), None
    Image.init()
    for name in PICTURE_FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts is not None and accepts(start) is not True):
            continue
        try:
            file.seek(0)
            image = factory(file, str(path))
        except (SyntaxError, ValueError, IndexError, TypeError, struct.error) as error:
            damage, image = error, _open_without_profile(file, path) if name == "PNG" else None
        if name == "TIFF" and image is not None:
            from .other_pictures import DEVELOP, RAW_PHOTO, format_error, is_raw_photo

            if is_raw_photo(image, start):
                raise format_error(path.name, RAW_PHOTO, DEVELOP)
        if image is not None:
            return image
    if damage is not None and start[4:8] != b"ftyp":
        raise ValueError(str(damage)) from damage
    from .other_pictures import open_other

    return open_other(file, path, _check_size)


def _open_without_profile(file: BinaryIO, path: Path) -> ImageFile | None:
    """A PNG picture whose colour profile Pillow refuses, without it."""
    from .colour import without_profile

    if (rest := without_profile(file)) is None:
        return None
    factory, _ = Image.OPEN["PNG"]
    image = factory(rest, str(path))
    image.info["icc_profile"] = None  # as Pillow notes one that is damaged
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _size_error(f"{width} x {height} px ({width * height} pixels)")


def _size_error(found: str, limit: str = f"{MAX_PIXELS // 1_000_000} megapixels") -> PortraitError:
    return PortraitError(
        "The portrait is too large.",
        found=found,
        expected=f"at most {limit}",
        fix="scale the picture down, or save it as JPEG",
    )


def _read_rgb(
    picture: ImageFile, file: BinaryIO, name: str, on_white: bool
) -> tuple[NDArray[np.uint8], list[str]]:
    """A picture's pixels [h, w, 3], and what was changed. Warns of what a user may not expect."""
    (width, height), changes = picture.size, list[str]()
    _check_size(width, height)
    if picture.format not in ALBUMS and _has_frames(picture):
        logger.warning(f"{name} holds several pictures, as an animation does: the first is used.")
    factor = 1
    while width * height > FULL_PIXELS and width * height > REDUCED_PIXELS * factor**2:
        factor *= 2
    profile = _find_profile(picture, file, name)
    if factor > 1 and picture.format in ("JPEG", "MPO"):
        picture.draft(None, (width // factor, height // factor))
    elif factor > 1 and width * height > MAX_PIXELS_PER_BYTE * (size := os.fstat(file.fileno()).st_size):
        limit = f"{FULL_PIXELS // 1_000_000} megapixels in a file of so few bytes"
        raise _size_error(f"{width} x {height} px ({width * height} pixels) in {format_bytes(size)}", limit)
    if picture.format != "JXL" or getattr(picture, "jpeg", False):  # else rotated by its library
        ImageOps.exif_transpose(picture, in_place=True)
    image: Image.Image = picture
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(picture, name, changes)
    if image.has_transparency_data and image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if factor > 1:
        if max(image.size) > -(-max(width, height) // factor):
            image = image.reduce(factor)
        changes.append(f"a size of {image.width} x {image.height} px")
        logger.warning(f"{name} has {width} x {height} px: it is read at {image.width} x {image.height}.")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    if profile and (colours := _convert_profile(image, profile, name)) is not None:
        image = colours
        changes.append("its colour profile")
    if on_white and alpha is not None and alpha.getextrema() != (255, 255):
        image = image.convert("RGBA")
        image.putalpha(alpha)
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper
        changes.append("its transparency")
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), changes


def _has_frames(picture: ImageFile) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except (OSError, ValueError, SyntaxError, EOFError):  # a damaged second frame
        return False


def _find_profile(picture: ImageFile, file: BinaryIO, name: str) -> bytes:
    file.seek(0)
    if not COLOUR_NOTES & picture.info.keys() and b"cICP" not in file.read(HEADER_BYTES):
        return b""
    from .colour import find_profile

    try:
        return find_profile(picture, file)
    except ValueError as error:
        _warn_of_profile(name, error)
        return b""


def _convert_profile(image: Image.Image, profile: bytes, name: str) -> Image.Image | None:
    from .colour import to_srgb

    try:
        return to_srgb(image, profile)
    except ValueError as error:
        _warn_of_profile(name, error)
        return None


def _warn_of_profile(name: str, error: ValueError) -> None:
    logger.warning(
        f"The colour profile of {name} cannot be used ({error}): its colours are taken for sRGB, and may be "
        "too pale or too strong. Save the picture as sRGB for the right ones."
    )


def _to_8_bits(picture: ImageFile, name: str, changes: list[str]) -> Image.Image:
    """Grey of 16 or 32 bits, or of floating point, which Pillow would clip, not scale."""
    grey = np.array(picture, dtype=np.float32)
    if not np.isfinite(grey).all():
        raise ValueError("pixels that are not finite")
    high = float(grey.max(initial=0.0))
    white = 1.0 if picture.mode == "F" and high <= 1 else float(MAX_16_BITS)
    if picture.mode.startswith("I;16"):
        bits = _count_bits(getattr(picture, "tag_v2", {}))
        if high < 1 << bits < MAX_16_BITS:
            white = float((1 << bits) - 1)
            changes.append(f"its {bits} bits of grey")
        elif 0 < high < MAX_16_BITS / 16:
            logger.warning(
                f"{name} is nearly black: its brightest value is {high:.0f} of {MAX_16_BITS}. If its "
                "scanner or camera has fewer bits, save it with its brightness scaled."
            )
    grey *= 255.0 / white
    return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))


def _count_bits(tags: Mapping[int, Any]) -> int:
    """Bits that samples in 16 use, by the tags of a TIFF; 16 if they do not say."""
    counts = [16]
    for tag in (BITS_PER_SAMPLE, *MAX_SAMPLE_VALUES):
        value = tags.get(tag, 0)
        for number in cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,)):
            if isinstance(number, int | float) and math.isfinite(number):
                counts.append(int(number) if tag == BITS_PER_SAMPLE else int(number).bit_length())
    return min(count for count in counts if count > 8)
