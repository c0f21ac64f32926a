"""Colour spaces: of phones, cameras and printers, and profiles that cannot be used."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from hallo3.media import colour
from hallo3.media.image import read_picture, read_picture_file
from support.messages import expect_message


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def save(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


TO_P3 = np.linalg.inv(
    [[1.2249402, -0.2249402, 0], [-0.0420570, 1.0420570, 0], [-0.0196376, -0.0786361, 1.0982737]]
)
"""From sRGB, both linear (CSS Color 4)."""
SRGB = np.array([[239, 205, 179], [104, 70, 52], [30, 60, 200], [128, 128, 128], [0, 0, 0], [255, 255, 255]])
P3 = colour._make_profile(colour.PRIMARIES[12], colour.SRGB_CURVE)
CMYK_CORNERS = [(100 - 100 * k) * (1 - 0.1 * (c + m + y)) for c, m, y, k in np.ndindex(2, 2, 2, 2)]


def to_p3(pixels: np.ndarray) -> np.ndarray:
    """Levels of sRGB as those of Display P3."""
    share = pixels / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ TO_P3.T
    return (np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255).round()


def patches(colours: np.ndarray) -> Image.Image:
    """A strip of 64 x 64 px of each colour."""
    return Image.fromarray(colours.astype(np.uint8).repeat(64, axis=0)[None].repeat(64, axis=0))


def printer_profile() -> bytes:
    """CMYK to Lab by a table: ink darkens, black ink is not quite black."""
    lightness = np.array(CMYK_CORNERS).clip(8, 100) * 2.55
    nodes = np.stack((lightness, *[np.full(16, 128)] * 2), axis=1).round().astype(np.uint8).tobytes()
    ramp, identity = bytes(range(256)), (1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = (
        b"mft1\0\0\0\0\4\3\2\0"
        + struct.pack(">9i", *(65536 * n for n in identity))
        + 4 * ramp
        + nodes
        + 3 * ramp
    )
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x", 144 + len(table), 0x02400000, b"scnr", b"CMYK", b"Lab ", b"acsp"
    )
    return head + bytes(60) + struct.pack(">I4sII", 1, b"A2B1", 144, len(table)) + table


def png_with(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    content = encode(image, "PNG")
    made = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return content[:33] + b"".join(made) + content[33:]


P3_POINTS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
IN_P3 = {
    "PNG": lambda im: encode(im, "PNG", icc_profile=P3),
    "JPEG": lambda im: encode(im, "JPEG", icc_profile=P3, quality=100, subsampling=0),
    "WEBP": lambda im: encode(im, "WEBP", icc_profile=P3, lossless=True),
    "TIFF": lambda im: encode(im, "TIFF", icc_profile=P3),
    "AVIF": lambda im: encode(im, "AVIF", icc_profile=P3, quality=100, subsampling="4:4:4"),
    "half transparent": lambda im: encode(half(im), "PNG", icc_profile=P3),
    "cICP": lambda im: png_with(im, (b"cICP", bytes([12, 13, 0, 1]))),
    "cHRM": lambda im: png_with(im, (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_POINTS)),
}


def half(image: Image.Image) -> Image.Image:
    image.putalpha(128)
    return image


Image.init()
NO_AVIF = pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow before 11.3 has no AVIF")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=NO_AVIF if k == "AVIF" else ()) for k in IN_P3])
def test_display_p3_becomes_srgb(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(IN_P3[kind](patches(to_p3(SRGB))))
    found = read_picture_file(tmp_path / "a")
    wanted = SRGB / 255 * 128 / 255 + 127 / 255 if kind == "half transparent" else SRGB / 255
    wrong = np.abs(found.pixels[:, 32, 32::64].T.numpy() - wanted).max() * 255
    assert wrong <= (3 if kind in ("JPEG", "AVIF") else 1.2)
    assert found.changes[0] == "its colour profile"


def test_other_spaces_become_srgb(tmp_path: Path) -> None:
    """Print colours with a black that is black, grey with a curve, cameras' mark of Adobe RGB."""
    inks = np.array([(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)], np.uint8).repeat(64, axis=0)
    page = Image.frombytes("CMYK", (192, 64), np.tile(inks, (64, 1, 1)).tobytes())
    for name in ("a.tiff", "a.jpg"):
        white, ink, black = read_picture(save(tmp_path, page, name, icc_profile=printer_profile()))[
            :, 32, 32::64
        ].T
        assert float(white.min()) > 0.98
        assert float(black.max()) < 0.02
        assert 0.8 < float(ink.mean()) < 0.95
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    strong = read_picture(save(tmp_path, patches(SRGB), "adobe.jpg", exif=exif, quality=100, subsampling=0))
    assert float(strong[0, 32, 32] - strong[2, 32, 32]) * 255 > 239 - 179 + 5


def srgb_profiles() -> dict[str, bytes]:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {"Little CMS": made, "ours": colour._make_profile(colour.REC_709, colour.SRGB_CURVE)}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_profile_that_says_srgb_changes_no_pixel(mode: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (80, 80, 3), np.uint8)
    stored = Image.fromarray(noise).convert(mode)
    plain = read_picture(save(tmp_path, stored, "plain.png"))
    for name, profile in srgb_profiles().items():
        found = read_picture_file(save(tmp_path, stored, "said.png", icc_profile=profile))
        assert torch.equal(found.pixels, plain), name
        assert found.changes == ()
    for chunk in ((b"gAMA", struct.pack(">I", 45455)), (b"cICP", bytes([1, 13, 0, 1])), (b"sRGB", b"\0")):
        (tmp_path / "said.png").write_bytes(png_with(stored, chunk))
        assert torch.equal(read_picture(tmp_path / "said.png"), plain), chunk


UNUSABLE = {
    "junk": b"x" * 3000,
    "cut": P3[:200],
    "a byte": b"\0",
    "for printers": printer_profile(),
    "all black": P3[:204] + 3 * (b"XYZ " + bytes(16)) + P3[264:],
    "too large": P3 + bytes(9 << 20),
}
CHUNKS = {
    "bomb": (b"iCCP", b"a\0\0" + zlib.compress(bytes(40 << 20))),
    "packing": (b"iCCP", b"a\0\7" + bytes(9)),
    "not packed": (b"iCCP", b"a\0\0junk"),
    "nothing": (b"iCCP", b""),
    "HDR": (b"cICP", bytes([9, 16, 0, 1])),
    "no gamma": (b"gAMA", bytes(4)),
    "no primaries": (b"cHRM", bytes(32)),
}


@pytest.mark.parametrize("kind", [*UNUSABLE, *CHUNKS])
def test_a_profile_that_cannot_be_used_is_told_and_taken_for_srgb(kind: str, tmp_path: Path) -> None:
    strip = patches(SRGB)
    if kind in CHUNKS:
        (tmp_path / "a").write_bytes(png_with(strip, CHUNKS[kind]))
    else:
        (tmp_path / "a").write_bytes(encode(strip, "TIFF", icc_profile=UNUSABLE[kind]))
    with expect_message("colour profile of a cannot be used.*taken for sRGB") as messages:
        found = read_picture_file(tmp_path / "a")
    assert len(messages) == 1
    assert torch.equal((found.pixels * 255).byte(), torch.from_numpy(np.array(strip)).permute(2, 0, 1))
    assert found.changes == ()
