"""Drawn faces: found wherever and in whatever light they are; what is none is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.face.analyzer import analyze_portrait
from hallo3.face.drawn import WHOLE, DrawnFaceAnalyzer, face_box, looks_drawn
from hallo3.face.registry import create_analyzer
from hallo3.media.framing import MASK_RATIO
from support.messages import expect_message, expect_no_message

ANALYZER = DrawnFaceAnalyzer(512)
OVAL = (0.25, 0.2, 0.75, 0.9)
"""Where the face is drawn: left, top, right, bottom in shares of the picture."""
ABOUT_A_PIXEL = 1.5 / 64


def picture_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def drawing(side: int = 256, oval: tuple[float, ...] = OVAL, skin: str = "#e0ac8c") -> Image.Image:
    """Skin before hair before a wall, with eyes and a mouth."""
    image = Image.new("RGB", (side, side), "#9ab4c0")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (side * edge for edge in oval)
    wide, tall = right - left, bottom - top
    draw.ellipse((left - 0.1 * wide, top - 0.15 * tall, right + 0.1 * wide, top + 0.7 * tall), "#4a3024")
    draw.ellipse((left, top, right, bottom), skin)
    for x in (0.3, 0.7):
        draw.ellipse(
            (left + (x - 0.08) * wide, top + 0.4 * tall, left + (x + 0.08) * wide, top + 0.48 * tall)
        )
    draw.ellipse((left + 0.35 * wide, top + 0.7 * tall, right - 0.35 * wide, top + 0.76 * tall), "#a04048")
    return image


def photograph(side: int, seed: int = 0) -> Tensor:
    """Noise of all sizes, as a photograph's light and textures are."""
    r, picture = np.random.default_rng(seed), np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24, 48, 96):
        small = Image.fromarray(r.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float) / cells**0.7
    low, high = picture.min(), picture.max()
    return torch.from_numpy((picture - low) / (high - low)).permute(2, 0, 1).float()


@pytest.mark.parametrize("oval", [OVAL, (0.3, 0.25, 0.7, 0.8), (0.2, 0.15, 0.7, 0.85)])
@pytest.mark.parametrize("side", [64, 100, 256, 480])
@pytest.mark.parametrize("skin", ["#ffe0c4", "#be8a64", "#684634"])
def test_the_box_is_the_face(oval: tuple[float, ...], side: int, skin: str) -> None:
    box = face_box(picture_of(drawing(side, oval, skin)))
    assert box is not None
    assert box == pytest.approx(oval, abs=0.5 / side + ABOUT_A_PIXEL)


@pytest.mark.parametrize("light", [(0.5, 0.5, 0.5), (1.0, 0.8, 0.6), (0.6, 0.8, 1.0)])
def test_light_moves_neither_box_nor_verdict(light: tuple[float, float, float]) -> None:
    picture = picture_of(drawing())
    lit = picture * torch.tensor(light)[:, None, None]
    box, seen = face_box(picture), face_box(lit)
    assert box is not None
    assert seen == pytest.approx(box, abs=ABOUT_A_PIXEL)
    assert looks_drawn(lit)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (200, 300)])
def test_the_mask_covers_the_face_and_a_margin(size: tuple[int, int]) -> None:
    picture = picture_of(drawing(300).resize(size))
    box, face = face_box(picture), ANALYZER.analyze(picture)
    assert box is not None
    rows, columns = box.to_slices(*picture.shape[1:])
    assert face.mask.shape == picture.shape[1:]
    assert set(face.mask.unique().tolist()) == {0.0, 1.0}
    assert bool((face.mask[rows, columns] == 1).all())
    area = (box.right - box.left) * (box.bottom - box.top)
    assert float(face.mask.float().mean()) == pytest.approx(MASK_RATIO**2 * area, abs=0.05)


def test_the_embedding_is_finite_and_says_who_and_where() -> None:
    one, other = picture_of(drawing()), picture_of(drawing(skin="#684634"))
    moved = picture_of(drawing(oval=(0.2, 0.2, 0.7, 0.9)))
    first, *others = [ANALYZER.analyze(each).embedding for each in (one, other, moved)]
    assert first.shape == (1, 512)
    assert bool(first.isfinite().all())
    assert -1 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, ANALYZER.analyze(one).embedding)
    assert all(float((first - each).abs().max()) > 0.05 for each in others)


def test_the_model_space_has_this_analyzer() -> None:
    config = FaceConfig(space="drawn-face")
    face = analyze_portrait(picture_of(drawing()), create_analyzer(config), config)
    assert face.embedding.shape == (1, config.embedding_dim)


def test_a_drawing_without_a_face_counts_as_a_whole_with_one_warning() -> None:
    board = torch.zeros(3, 256, 256)
    board[:, ::8], board[:, :, ::8] = 1, 1
    assert looks_drawn(board[:, :64, :64])
    with expect_message("No drawn face was found") as said:
        face = ANALYZER.analyze(board[:, :64, :64])
    assert len(said) == 1
    assert bool((face.mask == 1).all())
    assert face.embedding[0, 3 * 13**2 :][:4].tolist() == [2 * edge - 1 for edge in WHOLE]


@pytest.mark.parametrize("side", [128, 256, 600])
def test_a_photograph_is_told_once_and_goes_on(side: int) -> None:
    for picture in (photograph(side), torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))):
        with expect_message("looks like a photograph") as said:
            face = ANALYZER.analyze(picture)
        assert len(said) == 1
        assert bool(face.embedding.isfinite().all())


@pytest.mark.parametrize("side", [64, 128, 256, 480, 1000])
def test_drawings_are_drawn_at_every_size(side: int) -> None:
    with expect_no_message():
        ANALYZER.analyze(picture_of(drawing(side)))


def test_smooth_shades_and_soft_edges_are_no_photograph() -> None:
    y, x = torch.linspace(0, 1, 256)[:, None], torch.linspace(0, 1, 256)[None]
    shaded = torch.stack((0.3 + 0.5 * x.expand(256, 256), 0.4 + 0.4 * y.expand(256, 256), (x + y) / 2))
    assert looks_drawn(shaded)
    assert looks_drawn(picture_of(drawing().filter(ImageFilter.GaussianBlur(2))))
    assert looks_drawn(shaded * picture_of(drawing()))


def test_the_sample_portrait_is_a_drawn_face(samples: object) -> None:
    picture = picture_of(Image.open(f"{samples}/portrait.png").convert("RGB"))
    assert looks_drawn(picture)
    assert face_box(picture) is not None


def test_below_128_pixels_nothing_is_called_a_photograph() -> None:
    assert looks_drawn(photograph(127))
    assert not looks_drawn(photograph(128))


def test_a_strip_can_be_judged() -> None:
    assert not looks_drawn(torch.rand(3, 128, 1000, generator=torch.Generator().manual_seed(0)))
    assert looks_drawn(torch.full((3, 128, 2000), 0.5))
