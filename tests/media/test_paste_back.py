from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hallo3.geometry import PixelBox, VideoShape
from hallo3.media.canvas import fit
from hallo3.media.framing import Crop, plan_crop
from hallo3.media.paste_back import FEATHER, MAX_PHOTOGRAPH_SIDE, PasteBack, make_paste_back
from support.own_process import ON_LINUX, measure_growth, run_alone

SHAPE = VideoShape(49, 240, 360)
SIZES = {"9:16": (960, 540), "4:3": (600, 800), "16:9": (540, 960), "3:2": (480, 720), "square": (500, 500)}
PLACES = {"corner": (0.1, 0.08), "middle": (0.5, 0.5), "border": (0.93, 0.6)}
"""Middles of faces, in shares of the picture."""
LEVEL = 1 / 255


def scene(height: int, width: int) -> Tensor:
    """Waves, none shorter than a seventh of the shorter side: what scaling keeps."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    unit = 2 * torch.pi / min(height, width)
    waves = [torch.sin((k + 2) * unit * x + k) * torch.cos((5 - k) * unit * y) for k in range(3)]
    return torch.stack(waves) * 0.4 + 0.5


def canvas_picture(picture: Tensor, crop: Crop) -> Tensor:
    """A video frame without any movement: [1, 3, h, w] in 0..1."""
    canvas = fit(crop.of(picture), SHAPE)
    return (canvas.uncrop(canvas.pixels[:, :, 0]) + 1) / 2


def psnr(actual: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((actual - expected).square().mean()))


def changed_part(place: PixelBox) -> tuple[slice, slice]:
    """Rows and columns that may change."""
    return slice(round(place.top), round(place.bottom)), slice(round(place.left), round(place.right))


@pytest.mark.parametrize("framing", ["auto", "face", "original"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_pasted_back_without_a_trace(size: str, place: str, framing: str) -> None:
    height, width = SIZES[size]
    picture, tall = scene(height, width), 0.2 * min(height, width)
    x, y = PLACES[place][0] * width, PLACES[place][1] * height
    face = PixelBox(x - 0.4 * tall, y - tall / 2, x + 0.4 * tall, y + tall / 2)
    crop = plan_crop(height, width, face, SHAPE, framing)
    paste_back, frame = make_paste_back(picture, crop, SHAPE), canvas_picture(picture, crop)
    assert paste_back.place.area == pytest.approx(crop.visible_box(SHAPE).area, rel=0.01)
    pasted, photograph = paste_back.paste(frame)[0], paste_back.photograph / 255
    assert psnr(pasted, photograph) > 55
    outside = torch.ones(paste_back.height, paste_back.width, dtype=torch.bool)
    outside[changed_part(paste_back.place)] = False
    assert torch.equal(pasted[:, outside], photograph[:, outside])
    if framing == "face":
        other = paste_back.paste(1 - frame)[0]
        assert torch.equal(other[:, outside], photograph[:, outside])
        assert float((other - pasted).abs().max()) > 0.5


@pytest.mark.parametrize(("height", "width"), [(600, 800), (540, 960)])
def test_a_shift_by_one_pixel_fails_the_same_bound(height: int, width: int) -> None:
    """The bound of the test above is tight enough."""
    picture, crop = scene(height, width), Crop(top=100, left=100, height=300, width=450)
    paste_back = make_paste_back(picture, crop, SHAPE)
    pasted = paste_back.paste(canvas_picture(picture, replace(crop, top=101)))[0]
    assert psnr(pasted, paste_back.photograph / 255) < 50


EDGES = [(20, 30, 120, 130), (0, 0, 100, 100), (20.4, 60.6, 119.4, 160), (0, 0, 150, 160)]


@pytest.mark.parametrize("edges", EDGES)
def test_only_edges_inside_the_photograph_are_soft(edges: tuple[float, ...]) -> None:
    place, black = PixelBox(*edges), torch.zeros(3, 160, 150, dtype=torch.uint8)
    result = PasteBack(photograph=black, place=place).paste(torch.ones(1, 3, 64, 64))[0, 0]
    part, feather = result[changed_part(place)], FEATHER * min(edges[2] - edges[0], edges[3] - edges[1])
    margin, middle = int(feather) + 2, part.shape[0] // 2
    assert float(part[margin:-margin, margin:-margin].min()) > 1 - 1e-5
    upright, across = part[:, middle], part[middle]
    runs = upright[:margin], upright.flip(0)[:margin], across[:margin], across.flip(0)[:margin]
    soft_sides = place.top > 0, place.bottom < 160, place.left > 0, place.right < 150
    for soft, run in zip(soft_sides, runs, strict=True):
        assert run[0] < 0.1 if soft else float(run.min()) > 1 - 1e-5
        steps = run.diff()
        assert not soft or -1e-5 < float(steps.min()) <= float(steps.max()) <= 1.6 / feather
    assert float(result.sum()) == pytest.approx(float(part.sum()))


@pytest.mark.parametrize("place", [(200, 100, 740, 640), (0, 100, 540, 640), (400.3, 0, 1000.1, 400.2)])
def test_a_slightly_brighter_frame_has_no_visible_edge(place: tuple[float, ...]) -> None:
    """3 % brighter: the difference of neighbours grows by less than a level."""
    grey = torch.full((3, 720, 1080), 128, dtype=torch.uint8)
    paste_back = PasteBack(photograph=grey, place=PixelBox(*place))
    result = paste_back.paste(torch.full((1, 3, 240, 240), 128 / 255 * 1.03))[0]
    assert float(result.max()) == pytest.approx(128 / 255 * 1.03, abs=1e-6)
    for dim in (1, 2):
        assert float(result.diff(dim=dim).abs().max()) < LEVEL


SCALED = {(64, 64): (64, 64), (65, 77): (64, 76), (1080, 1920): (1080, 1920), (1921, 1080): (1920, 1078)}
SCALED |= {(3000, 4000): (1440, 1920), (4000, 2251): (1920, 1080), (16, 4096): (8, 1920)}
SCALED |= {(4096, 16): (1920, 8), (8000, 3): (1920, 2)}


@pytest.mark.parametrize("size", SCALED)
def test_sizes_are_even_and_at_most_full_hd(size: tuple[int, int]) -> None:
    crop = plan_crop(*size, PixelBox(0, 0, min(9, size[1]), min(9, size[0])), SHAPE, "face")
    paste_back = make_paste_back(torch.full((3, *size), 0.25), crop, SHAPE)
    assert (paste_back.height, paste_back.width) == SCALED[size]
    assert max(SCALED[size]) <= MAX_PHOTOGRAPH_SIDE
    assert paste_back.photograph.dtype == torch.uint8
    pasted = paste_back.paste(torch.full((1, 3, 240, 240), 0.25))
    assert pasted.shape == (1, 3, *SCALED[size])
    assert float((pasted - 0.25).abs().max()) <= LEVEL


def test_overshoot_is_clamped() -> None:
    """Cubic resampling overshoots at hard edges."""
    black, hard = torch.zeros(3, 200, 300), (torch.arange(48) % 12 < 6).float().expand(2, 3, 32, 48)
    place = PixelBox(10.3, 20.7, 280.1, 190.2)
    result = PasteBack(photograph=black.byte(), place=place).paste(hard)
    assert (float(result.min()), float(result.max())) == (0, 1)


def test_frames_do_not_depend_on_their_neighbours() -> None:
    paste_back = make_paste_back(scene(300, 200), Crop(top=20, left=10, height=100, width=150), SHAPE)
    frames = torch.rand(3, 3, 240, 360, generator=torch.Generator().manual_seed(0))
    together = paste_back.paste(frames)
    alone = torch.cat([paste_back.paste(frame[None]) for frame in frames])
    assert torch.equal(together, alone)
    assert paste_back.paste(frames[:0]).shape == (0, 3, 300, 200)
    assert psnr(paste_back.paste(frames.half()), together) > 60


def measure_memory() -> tuple[float, float]:
    """MB to cut a photograph of 8000 x 6000, and to paste eight frames."""
    shape, crop = VideoShape(49, 480, 720), Crop(top=1000, left=2000, height=2000, width=3000)
    make_paste_back(torch.rand(3, 2100, 100), Crop.whole(2100, 100), shape).paste(torch.rand(1, 3, 48, 72))
    picture = torch.full((3, 6000, 8000), 0.5)
    with measure_growth() as cut:
        paste_back = make_paste_back(picture, crop, shape)
    with measure_growth() as pasted:
        frames = paste_back.paste(torch.rand(8, 3, 480, 720))
    return cut[0], pasted[0] - frames.numel() * 4 / 2**20


@ON_LINUX
def test_a_large_photograph_takes_little_memory() -> None:
    """8000 x 6000 is 549 MB as float32: a copy would show. A frame of 1920 x 1440 is 32 MB."""
    cut, per_frame = run_alone("media.test_paste_back", "measure_memory()")
    assert cut < 300
    assert per_frame < 150
