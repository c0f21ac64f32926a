from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from hallo3.face.drawn import WHOLE, DrawnFaceAnalyzer, face_box, looks_drawn
from hallo3.media.framing import MASK_RATIO
from hallo3.media.image import read_picture, write_picture
from support.messages import expect_message

ANALYZER = DrawnFaceAnalyzer(512)
OVAL = (0.25, 0.2, 0.75, 0.9)
"""Where the face is drawn: left, top, right, bottom in shares of the picture."""
ABOUT_A_PIXEL = 1.5 / 64


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def draw_face(side: int = 256, oval: tuple[float, ...] = OVAL, skin: str = "#e0ac8c") -> Image.Image:
    """Skin in front of hair in front of a wall, with eyes and a mouth."""
    image = Image.new("RGB", (side, side), "#9ab4c0")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (side * edge for edge in oval)
    wide, tall = right - left, bottom - top
    draw.ellipse((left - 0.1 * wide, top - 0.15 * tall, right + 0.1 * wide, top + 0.7 * tall), "#4a3024")
    draw.ellipse((left, top, right, bottom), skin)
    for x in (left + 0.3 * wide, left + 0.7 * wide):
        draw.ellipse((x - 0.08 * wide, top + 0.4 * tall, x + 0.08 * wide, top + 0.48 * tall))
    draw.ellipse((left + 0.35 * wide, top + 0.7 * tall, right - 0.35 * wide, top + 0.76 * tall), "#a04048")
    return image


def make_photograph(side: int) -> Tensor:
    """Noise of all sizes, like a photograph's light and textures."""
    draw, picture = np.random.default_rng(0), np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24, 48, 96):
        small = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float) / cells**0.7
    low, high = picture.min(), picture.max()
    return torch.from_numpy((picture - low) / (high - low)).permute(2, 0, 1).float()


@pytest.mark.parametrize("oval", [OVAL, (0.3, 0.25, 0.7, 0.8), (0.2, 0.15, 0.7, 0.85)])
@pytest.mark.parametrize("side", [64, 100, 256, 480, 1000])
@pytest.mark.parametrize("skin", ["#ffe0c4", "#be8a64", "#684634"])
def test_the_box_is_the_face(oval: tuple[float, ...], side: int, skin: str) -> None:
    picture = to_tensor(draw_face(side, oval, skin))
    assert face_box(picture) == pytest.approx(oval, abs=0.5 / side + ABOUT_A_PIXEL)
    ANALYZER.analyze(picture)  # without a message


@pytest.mark.parametrize("light", [(0.5, 0.5, 0.5), (1.0, 0.8, 0.6), (0.6, 0.8, 1.0)])
def test_light_changes_neither_the_box_nor_the_verdict(light: tuple[float, float, float]) -> None:
    lit = to_tensor(draw_face()) * torch.tensor(light)[:, None, None]
    assert face_box(lit) == pytest.approx(face_box(to_tensor(draw_face())), abs=ABOUT_A_PIXEL)
    assert looks_drawn(lit)


def test_i20_noise_of_one_level_does_not_move_a_face(tmp_path: Path, samples: Path) -> None:
    for name in ("portrait.png", "portrait_2.png", "portrait_3.png"):
        picture, draw = read_picture(samples / name), torch.Generator().manual_seed(20)
        write_picture(picture, tmp_path / "p.png")
        noises = (torch.rand(picture.shape, generator=draw) * 2 - 1 for _ in range(50))
        versions = [read_picture(tmp_path / "p.png"), *((picture + n / 255).clamp(0, 1) for n in noises)]
        boxes = torch.tensor([face_box(each) or (torch.nan,) * 4 for each in (picture, *versions)])
        sides = torch.tensor(picture.shape)[[2, 1, 2, 1]]
        assert float(((boxes - boxes[0]).abs() * sides).max()) <= 2


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (200, 300)])
def test_the_mask_covers_the_face_and_a_margin(size: tuple[int, int]) -> None:
    picture = to_tensor(draw_face(300).resize(size))
    box, mask = face_box(picture), ANALYZER.analyze(picture).mask
    assert box is not None
    assert mask.shape == picture.shape[1:]
    assert mask.unique().tolist() == [0, 1]
    assert bool((mask[box.to_slices(*mask.shape)] == 1).all())
    area = (box.right - box.left) * (box.bottom - box.top)
    assert float(mask.float().mean()) == pytest.approx(MASK_RATIO**2 * area, abs=0.05)


def test_the_embedding_depends_on_the_face_and_its_place() -> None:
    pictures = draw_face(), draw_face(skin="#684634"), draw_face(oval=(0.2, 0.2, 0.7, 0.9))
    first, *others = [ANALYZER.analyze(to_tensor(each)).embedding for each in pictures]
    assert first.shape == (1, 512)
    assert -1 <= float(first.min()) <= float(first.max()) <= 1, "which NaN is not"
    assert torch.equal(first, ANALYZER.analyze(to_tensor(pictures[0])).embedding)
    assert all(float((first - each).abs().max()) > 0.05 for each in others)


BOARD = torch.zeros(3, 64, 64)
BOARD[:, ::8], BOARD[:, :, ::8] = 1, 1
NO_FACE = {"board": BOARD, **{f"I17-{level}": torch.full((3, 300, 400), level) for level in (0.0, 0.5, 1.0)}}


@pytest.mark.parametrize("picture", NO_FACE.values(), ids=NO_FACE.keys())
def test_without_a_face_the_whole_picture_counts_with_one_warning(picture: Tensor) -> None:
    assert looks_drawn(picture)
    with expect_message("No drawn face was found") as messages:
        face = ANALYZER.analyze(picture)
    assert len(messages) == 1
    assert bool((face.mask == 1).all() and face.embedding.isfinite().all())
    assert face.embedding[0, 3 * 13**2 :][:4].tolist() == [2 * edge - 1 for edge in WHOLE]


@pytest.mark.parametrize("side", [128, 256, 600])
def test_a_photograph_gives_one_warning(side: int) -> None:
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    for picture in (make_photograph(side), noise):
        with expect_message("looks like a photograph") as messages:
            face = ANALYZER.analyze(picture)
        assert len(messages) == 1
        assert bool(face.embedding.isfinite().all())


def test_what_counts_as_drawn(samples: Path) -> None:
    y, x = torch.linspace(0, 1, 256)[:, None], torch.linspace(0, 1, 256)[None]
    shaded = torch.stack((0.3 + 0.5 * x.expand(256, 256), 0.4 + 0.4 * y.expand(256, 256), (x + y) / 2))
    drawn = {
        "smooth shades": shaded,
        "soft edges": to_tensor(draw_face().filter(ImageFilter.GaussianBlur(2))),
        "a shaded face": shaded * to_tensor(draw_face()),
        "the sample": read_picture(samples / "portrait.png"),
        "too small to judge": make_photograph(127),
        "a flat strip": torch.full((3, 128, 2000), 0.5),
    }
    noise = torch.rand(3, 128, 1000, generator=torch.Generator().manual_seed(0))
    others = {"a photograph": make_photograph(128), "a noisy strip": noise}
    assert {name for name, picture in (drawn | others).items() if looks_drawn(picture)} == drawn.keys()
