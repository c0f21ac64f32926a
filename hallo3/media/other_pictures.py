"""Picture files that Pillow alone does not read: opened by an extra library, or named with what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

from PIL.ImageFile import ImageFile

from ..errors import PortraitError
from ..storage.files import describe_foreign
from ..units import format_bytes

HEIF_BRANDS = b"heic heix heim heis hevc hevx mif1 msf1 MiHE MiHB MiHM".split()
JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height, by the number in a JPEG XL header."""
MAX_BOXES = 64
CONVERT = "open it in a picture program and save it as PNG or JPEG"
FRAME = "save one frame of it as PNG or JPEG"
PAGE = "export the page as PNG"
DEVELOP = "export it as JPEG or PNG from the program that develops raw photos"
SPEECH = "give a picture here; recordings go to --speech"
RAW_PHOTO = "a raw photo, as cameras make"
FOREIGN = (
    *((0, magic, "a Photoshop document", CONVERT) for magic in (b"8BPS", b"8BPB")),
    (0, b"gimp xcf", "a GIMP document", CONVERT),
    (0, b"%PDF", "a PDF document", PAGE),
    *((0, magic, "a PostScript drawing", PAGE) for magic in (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    (0, b"AT&TFORM", "a DjVu document", PAGE),
    *((0, magic, "a JPEG 2000 picture", CONVERT) for magic in (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")),
    (0, b"II\xbc", "a JPEG XR picture", CONVERT),
    (0, b"v/1\x01", "an OpenEXR picture", CONVERT),
    (0, b"#?RA", "a Radiance HDR picture", CONVERT),
    (0, b"DDS ", "a DirectX texture", CONVERT),
    (0, b"qoif", "a QOI picture", CONVERT),
    *((0, magic, "an icon", CONVERT) for magic in (b"icns", b"\x00\x00\x01\x00", b"\x00\x00\x02\x00")),
    *((0, magic, "a Windows metafile", CONVERT) for magic in (b"\xd7\xcd\xc6\x9a", b"\x01\x00\x00\x00l\x00")),
    *((0, b"P%d\n" % n, "a netpbm picture", CONVERT) for n in range(1, 8)),
    *(
        (0, magic, RAW_PHOTO, DEVELOP)
        for magic in (b"FUJIFILMCCD", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")
    ),
    *((8, b"CR\x02", RAW_PHOTO, DEVELOP), (4, b"ftypcrx ", RAW_PHOTO, DEVELOP)),
    *(
        (4, b"ftypavi" + end, "an AVIF picture", "run pip install -U pillow to read it")
        for end in (b"f", b"s")
    ),
    *((4, b"ftypM4" + end, "a sound recording", SPEECH) for end in (b"A", b"B")),
    *((4, kind, "a video", FRAME) for kind in (b"ftyp", b"moov", b"mdat", b"wide")),
    *(
        (0, magic, "a video", FRAME)
        for magic in (b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"0&\xb2u")
    ),
    (8, b"AVI ", "a video", FRAME),
    (8, b"WAVE", "a sound recording", SPEECH),
    *(
        (0, magic, "a sound recording", SPEECH)
        for magic in (b"ID3", b"OggS", b"fLaC", b"\xff\xfb", b"\xff\xf3")
    ),
)
"""Place and bytes at the start of files that people bring; what such a file is; what to do with it."""


def open_other(file: BinaryIO, path: Path, check_size: Callable[[int, int], None]) -> ImageFile:
    """An HEIC or JPEG XL picture with its header read. Raises ``PortraitError`` for any other file, or if the
    library for it is not installed; else what the library raises."""
    file.seek(0)
    start = file.read(64)
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
        library, kind, what, package = (
            "pillow_heif",
            "HeifImageFile",
            "an HEIC photo, as iPhones make",
            "pillow-heif",
        )
    elif start.startswith((JXL_CONTAINER, b"\xff\x0a")):
        library, kind = "pillow_jxl.JpegXLImagePlugin", "JXLImageFile"
        what, package = "a JPEG XL picture", "pillow-jxl-plugin"
    else:
        raise format_error(path.name, *_describe(file, start))
    try:
        # Named by its class: pillow_heif is not registered with Pillow, pillow_jxl registers itself.
        factory = cast("Callable[[BinaryIO, str], ImageFile]", getattr(import_module(library), kind))
    except (ImportError, AttributeError) as error:
        fix = f"run pip install {package} to read it, or export it as JPEG"
        raise format_error(path.name, what, fix) from error
    if kind == "JXLImageFile":  # it decodes when it opens
        check_size(*_read_jxl_size(file))
    file.seek(0)
    return factory(file, str(path))


def format_error(name: str, what: str, fix: str) -> PortraitError:
    return PortraitError(
        "The portrait cannot be read.",
        found=f"{name}, {what}",
        expected="a PNG, JPEG, WebP or similar picture",
        fix=fix,
    )


def is_raw_photo(image: ImageFile, start: bytes) -> bool:
    """Whether a TIFF is a raw photo, of which Pillow would read a preview."""
    tags = getattr(image, "tag_v2", {})
    reduced = tags.get(254, 0)  # NewSubfileType
    is_raw = 50706 in tags or start[8:10] == b"CR"
    return is_raw or (330 in tags and isinstance(reduced, int) and bool(reduced & 1))  # DNGVersion, SubIFDs


def _describe(file: BinaryIO, start: bytes) -> tuple[str, str]:
    """What a file is, and what to do with it."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        return "an empty file", "copy or export the picture again"
    for place, magic, what, fix in FOREIGN:
        if start[place:].startswith(magic):
            return what, fix
    file.seek(0)
    text = file.read(4096).lower()
    if b"<svg" in text:
        return "an SVG drawing", "export it as PNG"
    if what := describe_foreign(start):
        return what, "download or export the picture itself"
    return f"{format_bytes(size)} of an unknown picture format", CONVERT


def _read_jxl_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height from a JPEG XL header (ISO/IEC 18181-1, D.2). Raises ``ValueError``."""
    file.seek(0)
    if file.read(12) == JXL_CONTAINER:
        for _ in range(MAX_BOXES):
            head = file.read(8)
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind in (b"jxlc", b"jxlp"):
                file.seek(4 if kind == b"jxlp" else 0, os.SEEK_CUR)
                break
            size = int.from_bytes(file.read(8)) - 16 if length == 1 else length - 8
            if len(head) < 8 or size < 0:
                break
            file.seek(size, os.SEEK_CUR)
    else:
        file.seek(0)
    start = file.read(16)
    bits = int.from_bytes(start[2:], "little")
    if start[:2] != b"\xff\x0a":
        raise ValueError("no JPEG XL codestream")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    is_small = take(1)
    height, ratio = take_side(), take(3)
    if not ratio:
        return take_side(), height
    wide, tall = JXL_RATIOS[ratio - 1]
    return height * wide // tall, height
