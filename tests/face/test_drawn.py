from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from hallo3.errors import FaceError, PortraitError
from hallo3.face.drawn import WHOLE, DrawnFaceAnalyzer, face_box, find_faces, looks_drawn
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from hallo3.media.framing import MASK_RATIO
from hallo3.media.image import read_picture, write_picture
from support.messages import expect_message

ANALYZER = DrawnFaceAnalyzer(512)
ANY_PICTURE = DrawnFaceAnalyzer(512, FaceChoice(whole_picture=True))
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


def paste(size: tuple[int, int], *places: tuple[int, int, int]) -> Tensor:
    """Drawn faces on a wall of width x height: left, top and side of each."""
    wall = Image.new("RGB", size, "#8090a0")
    for left, top, side in places:
        wall.paste(draw_face(side), (left, top))
    return to_tensor(wall)


PEOPLE = {
    "in the middle": ((400, 400), [(100, 100, 200)]),
    "in a corner": ((900, 600), [(860 - 200, 380, 200)]),
    "small": ((300, 200), [(20, 130, 48)]),
    "tiny": ((90, 90), [(40, 10, 40)]),
    "in a panorama": ((3000, 300), [(2400, 40, 240)]),
    "in a tall picture": ((200, 2000), [(0, 1700, 200)]),
    "two alike": ((1100, 560), [(20, 30, 500), (580, 30, 500)]),
    "a family": ((1000, 500), [(10, 200, 120), (200, 100, 380), (640, 300, 150), (850, 20, 100)]),
}


@pytest.mark.parametrize("where", PEOPLE)
def test_faces_are_found_wherever_they_are(where: str) -> None:
    size, places = PEOPLE[where]
    found = find_faces(paste(size, *places))
    assert len(found) == len(places)
    for box, (left, top, side) in zip(found, places, strict=True):
        wanted = [(left + OVAL[0] * side) / size[0], (top + OVAL[1] * side) / size[1]]
        wanted += [(left + OVAL[2] * side) / size[0], (top + OVAL[3] * side) / size[1]]
        assert PixelBox(*box).overlap(PixelBox(*wanted)) > 0.8


def test_one_of_several_is_chosen_as_in_a_photograph() -> None:
    family, twins = (paste(PEOPLE[name][0], *PEOPLE[name][1]) for name in ("a family", "two alike"))
    for picture, message in (
        (family, "4 faces are .* number 2 .* the largest"),
        (twins, "number 1 .* which are alike"),
    ):
        with expect_message(message) as messages:
            chosen = ANALYZER.analyze(picture)
        assert len(messages) == 1
        assert chosen.boxes[chosen.index or 0] == max(chosen.boxes, key=lambda box: round(box.area, -4))
    for number in (1, 2, 3, 4):
        face = DrawnFaceAnalyzer(512, FaceChoice(index=number)).analyze(family)
        assert face.index == number - 1
        inside = face.boxes[number - 1]
        assert face.mask[int(inside.top) + 5, int(inside.left) + 5] == 1
        assert torch.equal(
            face.embedding, DrawnFaceAnalyzer(512, FaceChoice(box=inside)).analyze(family).embedding
        )
    with pytest.raises(FaceError, match="number 5, but 4 faces are there"):
        DrawnFaceAnalyzer(512, FaceChoice(index=5)).analyze(family)
    elsewhere = FaceChoice(box=PixelBox(400, 0, 500, 50))  # the user knows better
    assert DrawnFaceAnalyzer(512, elsewhere).analyze(family).mask[20, 450] == 1


def test_what_is_no_face_is_not_taken_for_one() -> None:
    """Half a face at an edge, a strip, faces on their side and upside down, a wall between people."""
    face, noise = draw_face(300), torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(1))
    half = Image.new("RGB", (512, 300), "#8090a0")
    half.paste(face.crop((150, 0, 300, 300)), (0, 0))
    cut = [
        face.crop(box) for box in ((0, 0, 150, 300), (150, 0, 300, 300), (0, 0, 100, 300), (0, 0, 300, 130))
    ]
    turned = [face.rotate(angle) for angle in (90, 180, 270)]
    sky = torch.linspace(0.2, 0.9, 300)[None, :, None].expand(3, 300, 400)
    for picture in (
        *map(to_tensor, (half, *cut, *turned)),
        noise,
        sky,
        make_photograph(300),
        *NO_FACE.values(),
    ):
        assert find_faces(picture) == []
    for box in find_faces(paste((1100, 560), (20, 30, 500), (580, 30, 500))):
        assert box.right < 0.5 or box.left > 0.5


def test_portraits_as_the_model_was_trained_with_keep_their_box() -> None:
    """The box of each centred portrait is that of videos before other faces were found, to the last bit."""
    pytest.importorskip("cv2")
    from training.drawing import draw
    from training.faces import Pose, make_person

    kept = 0
    for number in range(60):
        pose = Pose(open=number % 4 / 3, tilt=0.03 * (number % 3 - 1), x=0.02 * (number % 5 - 2))
        picture = to_tensor(
            Image.fromarray(draw(make_person(f"kept {number}"), pose, 64 + 64 * (number % 2)))
        )
        [found], before = find_faces(picture), face_box(picture)
        kept += found == before
        assert before is None or found == before
    assert kept >= 58


BOARD = torch.zeros(3, 64, 64)
BOARD[:, ::8], BOARD[:, :, ::8] = 1, 1
NO_FACE = {"board": BOARD, **{f"I17-{level}": torch.full((3, 300, 400), level) for level in (0.0, 0.5, 1.0)}}


@pytest.mark.parametrize("picture", NO_FACE.values(), ids=NO_FACE.keys())
def test_without_a_face_a_picture_is_refused_unless_the_whole_of_it_may_be_used(picture: Tensor) -> None:
    assert looks_drawn(picture)
    with pytest.raises(FaceError, match=r"^Drawn faces only: none is in this picture") as refused:
        ANALYZER.analyze(picture)
    assert "`no_face`: whole picture (--whole-picture)" in refused.value.fix
    with expect_message("^Drawn faces only: none is in this picture") as messages:
        face = ANY_PICTURE.analyze(picture)
    assert len(messages) == 1
    assert bool((face.mask == 1).all() and face.embedding.isfinite().all())
    assert face.embedding[0, 3 * 13**2 :][:4].tolist() == [2 * edge - 1 for edge in WHOLE]


@pytest.mark.parametrize("side", [128, 256, 600])
def test_a_photograph_is_refused_unless_the_whole_of_it_may_be_used(side: int) -> None:
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    photograph = make_photograph(side)
    grey = photograph.mean(dim=0, keepdim=True).expand(3, side, side)
    sepia = grey * torch.tensor([1, 0.8, 0.6])[:, None, None]
    place = FaceChoice(box=PixelBox(side / 4, side / 4, side / 2, side / 2))
    for picture in (photograph, grey, sepia, noise):
        for analyzer in (ANALYZER, DrawnFaceAnalyzer(512, place)):
            with pytest.raises(PortraitError, match=r"^Drawn faces only: this is a photograph") as refused:
                analyzer.analyze(picture)
            assert "released weights" in refused.value.fix
        with expect_message("^Drawn faces only: this is a photograph") as messages:
            face = ANY_PICTURE.analyze(picture)
        assert len(messages) == 1
        assert bool(face.embedding.isfinite().all())


@pytest.mark.parametrize("side", [128, 256, 480])
@pytest.mark.parametrize("quality", [75, 90])
def test_the_samples_are_accepted_at_other_sizes_in_grey_and_as_jpeg(
    side: int, quality: int, samples: Path, tmp_path: Path
) -> None:
    for name in ("portrait.png", "portrait_2.png", "portrait_3.png"):
        image = Image.open(samples / name).convert("RGB").resize((side, side))
        image.save(tmp_path / "p.jpg", quality=quality)
        for picture in (read_picture(tmp_path / "p.jpg"), to_tensor(image.convert("L").convert("RGB"))):
            assert ANALYZER.analyze(picture).index == 0


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
