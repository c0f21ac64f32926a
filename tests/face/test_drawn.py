from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from behaviour.directions import measure_directions
from hallo3.errors import FaceError, PortraitError
from hallo3.face.detector import MAX_SEARCHED, WEIGHTS, find_faces, read_detector
from hallo3.face.drawn import DrawnFaceAnalyzer, embed_face, looks_drawn, mask_face
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from hallo3.media.framing import MASK_RATIO
from hallo3.media.image import read_picture, write_picture
from support.messages import expect_message

ANALYZER = DrawnFaceAnalyzer(512)
ANY_PICTURE = DrawnFaceAnalyzer(512, FaceChoice(whole_picture=True))
OVAL = (0.25, 0.2, 0.75, 0.9)
"""Where the face is drawn: left, top, right, bottom in shares of the picture."""
FOUND_OVERLAP = 0.6
"""Intersection over union of a face that was found."""
DATA = Path(__file__).resolve().parents[1] / "data"


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


def find_one(picture: Tensor) -> PixelBox:
    (face,) = find_faces(picture)
    return face.box


def test_the_detector_is_small_and_read_once() -> None:
    assert WEIGHTS.stat().st_size <= 300_000
    assert sum(weight.numel() for weight in read_detector().parameters()) <= 150_000
    assert read_detector() is read_detector()


def test_faces_of_people_that_no_training_has_seen_are_found_and_where_they_look() -> None:
    pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")
    from support.drawn_people import HEIGHTS, count_found, draw_scene

    counts = count_found(draw_scene(f"quick {n}", 1 + n % 2, HEIGHTS[n % 8]) for n in range(40))
    assert counts.all_found >= 39
    assert counts.too_many <= 1
    assert mean(counts.overlaps) > 0.85
    assert mean(counts.yaw) < 6
    assert mean(counts.pitch) < 6


def test_pictures_without_people_have_no_face() -> None:
    pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")
    from support.drawn_people import draw_empty

    assert [number for number in range(40) if find_faces(draw_empty(f"quick {number}"))] == []


def test_directions_have_the_signs_of_the_mirror_image() -> None:
    pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")
    from support.drawn_people import draw_scene

    scenes = [draw_scene(f"mirror {number}", 1, 128) for number in range(12)]
    picture, heads = max(scenes, key=lambda scene: abs(scene.heads[0].yaw))
    frames = torch.stack((picture, picture.flip(2)))
    (one,), (other,) = measure_directions(frames)
    assert float(one[0]) == pytest.approx(heads[0].yaw, abs=15)
    assert float(other[0]) == pytest.approx(-heads[0].yaw, abs=15)
    assert measure_directions(frames, people=2).isnan().all()


def test_portraits_of_the_older_drawing_style_are_found(samples: Path) -> None:
    portraits = [*sorted(samples.glob("*.png")), *sorted((DATA / "behaviour").glob("*.png"))]
    assert len(portraits) == 13
    for path in portraits:
        picture = read_picture(path)
        (face,) = find_faces(picture)
        side = picture.shape[1]
        wanted = PixelBox(0.22 * side, 0.12 * side, 0.78 * side, 0.88 * side)
        assert face.box.overlap(wanted) > 0.75
        assert abs(face.yaw) < 20


@pytest.mark.parametrize("oval", [OVAL, (0.3, 0.25, 0.7, 0.8), (0.2, 0.15, 0.7, 0.85)])
@pytest.mark.parametrize("side", [64, 200])
@pytest.mark.parametrize("skin", ["#ffe0c4", "#be8a64", "#684634"])
def test_faces_of_a_simpler_style_are_found(oval: tuple[float, ...], side: int, skin: str) -> None:
    picture = to_tensor(draw_face(side, oval, skin))
    assert find_one(picture).overlap(PixelBox(*(edge * side for edge in oval))) > FOUND_OVERLAP
    ANALYZER.analyze(picture)  # without a message


@pytest.mark.parametrize("light", [(0.5, 0.5, 0.5), (1.0, 0.8, 0.6), (0.6, 0.8, 1.0)])
def test_light_changes_neither_the_box_nor_the_verdict(light: tuple[float, float, float]) -> None:
    picture = paste((256, 256), (0, 0, 256))
    lit = picture * torch.tensor(light)[:, None, None]
    assert find_one(lit).overlap(find_one(picture)) > 0.85
    assert looks_drawn(lit)


def test_i20_noise_of_one_level_does_not_move_a_face(tmp_path: Path, samples: Path) -> None:
    for name in ("portrait.png", "portrait_2.png", "portrait_3.png"):
        picture, draw = read_picture(samples / name), torch.Generator().manual_seed(20)
        write_picture(picture, tmp_path / "p.png")
        noises = (torch.rand(picture.shape, generator=draw) * 2 - 1 for _ in range(6))
        versions = [read_picture(tmp_path / "p.png"), *((picture + n / 255).clamp(0, 1) for n in noises)]
        boxes = torch.tensor([find_one(each) for each in (picture, *versions)])
        assert float((boxes - boxes[0]).abs().max()) <= 2


def test_a_large_picture_is_searched_in_little_memory_and_a_tiny_one_at_all() -> None:
    """20 megapixels, with a face of an eighth of the height: what is searched has ``MAX_SEARCHED``."""
    height, width = 4000, 5000
    small = paste((1250, 1000), (900, 500, 250))
    picture = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert picture.shape[1:] == (height, width)
    assert height * width > 10 * MAX_SEARCHED
    (face,) = find_faces(picture)
    wanted = PixelBox(
        *(4 * (edge + 250 * share) for edge, share in zip((900, 500) * 2, SAMPLE_OVAL, strict=True))
    )
    assert face.box.overlap(wanted) > FOUND_OVERLAP
    for size in ((1, 1), (1, 900), (7, 30), (3000, 2)):
        assert find_faces(torch.full((3, *size), 0.5)) == []


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (200, 300)])
def test_the_mask_covers_the_face_and_a_margin(size: tuple[int, int]) -> None:
    picture = to_tensor(draw_face(300).resize(size))
    (box,), mask = ANALYZER.analyze(picture).boxes, ANALYZER.analyze(picture).mask
    assert mask.shape == picture.shape[1:]
    assert mask.unique().tolist() == [0, 1]
    assert bool((mask[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] == 1).all())
    assert float(mask.sum()) == pytest.approx(MASK_RATIO**2 * box.area, rel=0.1)
    assert torch.equal(mask, mask_face(box, *mask.shape))


def test_a_mask_is_cut_at_the_edges_and_never_empty() -> None:
    assert mask_face(PixelBox(-20, 40, 20, 140), 100, 100).nonzero().amax(dim=0).tolist() == [99, 23]
    assert int(mask_face(PixelBox(99.9, 99.9, 100, 100), 100, 100).sum()) == 1


def test_the_embedding_depends_on_the_face_and_its_place() -> None:
    pictures = draw_face(), draw_face(skin="#684634"), draw_face(oval=(0.2, 0.2, 0.7, 0.9))
    first, *others = [ANALYZER.analyze(to_tensor(each)).embedding for each in pictures]
    assert first.shape == (1, 512)
    assert -1 <= float(first.min()) <= float(first.max()) <= 1, "which NaN is not"
    assert torch.equal(first, ANALYZER.analyze(to_tensor(pictures[0])).embedding)
    assert all(float((first - each).abs().max()) > 0.05 for each in others)


def test_an_embedding_is_a_thumbnail_and_the_box() -> None:
    picture = torch.zeros(3, 130, 260)
    picture[0, 65:, 130:] = torch.linspace(0, 1, 13).repeat_interleave(5)[:, None]
    embedding = embed_face(picture, PixelBox(130, 65, 300, 130))
    red, green = embedding[0, : 2 * 169].reshape(2, 13, 13)
    assert torch.allclose(red, torch.linspace(-1, 1, 13)[:, None].expand(13, 13), atol=1e-6)
    assert bool((green == -1).all())
    assert embedding[0, 3 * 169 :].tolist() == [0, 0, 1, 1, 0]
    assert embed_face(picture, PixelBox(0, 0, 260, 130), 600).shape == (1, 600)


SAMPLE_OVAL = (0.22, 0.125, 0.78, 0.86)


def paste(size: tuple[int, int], *places: tuple[int, int, int]) -> Tensor:
    """Sample portraits on a wall of width x height: left, top and side of each."""
    wall = Image.new("RGB", size, "#8090a0")
    with Image.open(DATA.parents[1] / "samples" / "portrait.png") as portrait:
        for left, top, side in places:
            wall.paste(portrait.convert("RGB").resize((side, side)), (left, top))
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
    for face, (left, top, side) in zip(found, places, strict=True):
        wanted = [edge + share * side for edge, share in zip((left, top) * 2, SAMPLE_OVAL, strict=True)]
        assert face.box.overlap(PixelBox(*wanted)) > FOUND_OVERLAP


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
    """A strip of a face, a face upside down, a wall between people."""
    face, noise = draw_face(300), torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(1))
    strips = [face.crop((0, 0, 90, 300)), face.crop((0, 0, 300, 100))]
    sky = torch.linspace(0.2, 0.9, 300)[None, :, None].expand(3, 300, 400)
    for picture in (*map(to_tensor, (*strips, face.rotate(180))), noise, sky, *NO_FACE.values()):
        assert find_faces(picture) == []
    for found in find_faces(paste((1100, 560), (20, 30, 500), (580, 30, 500))):
        assert found.box.right < 550 or found.box.left > 550


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
    assert face.embedding[0, 3 * 13**2 :][:4].tolist() == [-1, -1, 1, 1]


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
