"""Colours of pictures, converted from their colour space to sRGB by Little CMS."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

Numbers = NDArray[np.float64]
MAX_PROFILE_BYTES = 8 << 20
"""A printer's profiles have up to 3 MB."""
MAX_SRGB_STEP = 3
"""Levels of 255 that colours may differ from sRGB's to count as sRGB, whose pixels stay as they are."""
MAX_CHUNKS = 1000
MIN_SPREAD = 16
"""Levels of 255 that the colours of a usable profile differ by, at least."""
D65, D50 = (0.3127, 0.329), np.array((0.9642, 1.0, 0.8249))
BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02
"""What a PNG file in sRGB gives as its gamma."""
REC_709 = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PRIMARIES = {
    1: REC_709,
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
"""x and y of red, green and blue by their number in ITU-T H.273; 12 is Display P3."""
CURVES = {4: (2.2,), 5: (2.8,), 8: (1.0,), **dict.fromkeys((1, 6, 13, 14, 15), SRGB_CURVE)}
"""Numbers of an ICC parametric curve by their number in H.273; those of videos are shown as sRGB."""
UNKNOWN = {0, 2}
"""Numbers in H.273 that say nothing."""
INTEROPERABILITY = 0xA005
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode of a profile's colours."""


def find_profile(image: ImageFile, file: BinaryIO) -> bytes:
    """The ICC profile of a picture's colours, made here where the file only gives numbers; empty if it gives
    nothing. Raises ``ValueError`` for a profile that cannot be used."""
    codes = cast("dict[str, int] | None", image.info.get("nclx_profile"))
    numbers = (codes["color_primaries"], codes["transfer_characteristics"]) if codes else None
    if image.format == "PNG":
        numbers = next(
            ((data[0], data[1]) for name, data, *_ in _read_chunks(file) if name == b"cICP" and data[1:]),
            None,
        )
    if numbers and not UNKNOWN & {*numbers} and (image.format == "PNG" or not image.info.get("icc_profile")):
        if not (numbers[0] in PRIMARIES and numbers[1] in CURVES):
            raise ValueError(
                f"primaries {numbers[0]} and transfer {numbers[1]} of H.273, as HDR pictures have"
            )
        return _make_profile(PRIMARIES[numbers[0]], CURVES[numbers[1]])
    if "icc_profile" in image.info:
        data = image.info["icc_profile"]
        if not isinstance(data, bytes) or not 0 < len(data) <= MAX_PROFILE_BYTES:
            raise ValueError(f"{len(data):,} bytes" if isinstance(data, bytes) else "it is not complete")
        return data
    if image.format == "PNG" and "srgb" not in image.info and {"gamma", "chromaticity"} & {*image.info}:
        gamma, points = image.info.get("gamma", SRGB_GAMMA), image.info.get("chromaticity", (*D65, *REC_709))
        usual = abs(gamma - SRGB_GAMMA) < GAMMA_TOLERANCE
        if not usual and not 0.1 <= gamma <= 10:
            raise ValueError(f"a gamma of {gamma:g}")
        return _make_profile(points[2:], SRGB_CURVE if usual else (1 / gamma,), points[:2])
    if image.format in ("JPEG", "MPO"):
        with suppress(Exception):  # EXIF of any kind, also damaged
            exif = image.getexif()
            if str(exif.get_ifd(INTEROPERABILITY).get(1)).startswith("R03"):  # as cameras mark Adobe RGB
                return _make_profile(ADOBE_RGB, (563 / 256,))
    return b""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """A picture [RGB] in sRGB, without transparency; None if its colours are sRGB's already.

    Relative colorimetric, so that every colour that sRGB has, a skin's among them, stays itself, and the rest
    becomes the nearest; with black point compensation, because a printer's black would be grey. Raises
    ``ValueError`` for a profile that cannot be used, or is of another kind of picture.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = str(cast(Any, source).profile.xcolor_space)
        mode = SPACES.get(space, "")
        if not mode or (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and not _is_grey(image)):
            raise ValueError(f"colours of the kind {space.strip()} for a picture of the kind {image.mode}")
        transform = ImageCms.buildTransform(
            source,
            cast(Any, ImageCms).createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _make_probe(mode)
        found = np.asarray(_apply(probe, transform), dtype=np.int16)
        if int(np.ptp(found)) < MIN_SPREAD:
            raise ValueError("it makes all colours alike")
        if mode != "CMYK" and int(np.abs(found - np.asarray(probe.convert("RGB"))).max()) <= MAX_SRGB_STEP:
            return None
        return _apply(image if image.mode == mode else image.convert(mode), transform)
    except (ImageCms.PyCMSError, OSError, TypeError, ImportError) as error:
        raise ValueError(str(error)) from error


def without_profile(file: BinaryIO) -> BinaryIO | None:
    """A PNG file without its profile; None if it has none. Pillow refuses a file whose profile is large, or
    packed in an unknown way."""
    for name, _, start, end in _read_chunks(file):
        if name == b"iCCP":
            file.seek(0)
            content = file.read()
            return io.BytesIO(content[:start] + content[end:])
    return None


def _read_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Name, first bytes, start and end of each chunk of a PNG file in front of its pixels."""
    start = 8
    for _ in range(MAX_CHUNKS):
        file.seek(start)
        head = file.read(16)
        end = start + 12 + int.from_bytes(head[:4])
        if len(head) < 8 or head[4:8] == b"IDAT":
            return
        yield head[4:8], head[8:], start, end
        start = end


def _make_profile(
    primaries: tuple[float, ...], curve: tuple[float, ...], white: tuple[float, ...] = D65
) -> bytes:
    """An ICC profile of three primaries and a curve (ICC.1:2022). Raises ``ValueError``."""
    try:
        points = np.array(
            [(x / y, 1, (1 - x - y) / y) for x, y in (white, *zip(*[iter(primaries)] * 2, strict=True))]
        )
        scale = cast(Numbers, np.linalg.solve(points[1:].T, points[0]))
        adapt = np.diag((BRADFORD @ D50) / (BRADFORD @ points[0]))
        back = np.linalg.inv(BRADFORD)
        columns: Numbers = back @ adapt @ BRADFORD @ (points[1:].T * scale)
        parts = [b"XYZ " + bytes(4) + _fixed(column) for column in columns.T]
        parts.append(b"para" + struct.pack(">IHH", 0, 3 if len(curve) > 1 else 0, 0) + _fixed(curve))
    except (ZeroDivisionError, ValueError, np.linalg.LinAlgError, struct.error, OverflowError) as error:
        raise ValueError("primaries that make no colours") from error
    table, data, place = struct.pack(">I", 6), b"", 128 + 4 + 6 * 12
    for name, part in zip((b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC"), parts, strict=True):
        for each in (name, b"gTRC", b"bTRC") if name == b"rTRC" else (name,):
            table += each + struct.pack(">II", place + len(data), len(part))
        data += part
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x", place + len(data), 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    return head + _fixed(D50) + bytes(128 - len(head) - 12) + table + data


def _fixed(numbers: Iterable[float]) -> bytes:
    """Numbers of 16 bits before the point and 16 behind."""
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La")


def _make_probe(mode: str) -> Image.Image:
    """A row of colours across a colour space."""
    steps = np.linspace(0, 255, {"RGB": 17, "L": 256, "CMYK": 5}[mode]).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * Image.getmodebands(mode), indexing="ij"), axis=-1)
    return Image.frombytes(mode, (grid[..., 0].size, 1), grid.tobytes())


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    return cast(Image.Image, ImageCms.applyTransform(image, transform))
