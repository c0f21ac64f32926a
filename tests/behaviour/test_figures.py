"""Figures of painted videos are what was painted; a shifted picture has its shift."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from behaviour.carry import measure_shift
from behaviour.cases import Case, Speaker
from behaviour.contents import Contents, find_still, measure_contents, measure_light
from behaviour.figures import Figures, Obeyed, is_turned, measure_video, summarize, summarize_prompts
from behaviour.mouth import Mouth
from behaviour.pixels import (
    MOUTH_INSIDE,
    OPENING_UNITS,
    Head,
    Region,
    find_nearest,
    measure_colour_errors,
    measure_openings,
    resize,
)
from hallo3.media.audio import Recording

SKIN, WALL = torch.tensor((0.8, 0.6, 0.5)), torch.tensor((0.5, 0.6, 0.7))
HEIGHT, WIDTH, NEW_FRAMES = 96, 144, 10
HEADS = {yaw: Head(Region(0.25, 0.15, 0.75, 0.85), yaw) for yaw in (-0.8, 0.0, 0.8)}
HEAD = HEADS[0.0]


def paint_face(
    rows: float, shade: float = 1.0, head: Head = HEAD, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Tensor:
    """A box of skin on a wall, with a mouth open by ``rows``; part of a row is a mixture."""
    picture = WALL[:, None, None].expand(3, *size).clone()
    head.box.crop(picture)[:] = (shade * SKIN)[:, None, None]
    mouth = head.expect_mouth()
    x = round((mouth.left + mouth.right) / 2 * size[0])
    top = round((mouth.top + mouth.bottom) / 2 * size[0]) - 4
    inside = torch.tensor(MOUTH_INSIDE)
    for row in range(math.ceil(rows)):
        share = min(1.0, rows - row)
        picture[:, top + row, x - 5 : x + 5] = (inside * share + SKIN * (1 - share))[:, None]
    return picture


def make_mouth(frames: int) -> Mouth:
    """Loud and silent in turn, with everything between."""
    opening = np.clip(0.6 - 0.9 * np.cos(np.arange(frames) / 3), 0, 1).astype(np.float32)
    return Mouth(opening, np.full(frames, 0.5, np.float32))


MOUTH = make_mouth(60)


def paint_video(mouth: Mouth = MOUTH, delay: int = 0, scale: float = 8.0, head: Head = HEAD) -> Tensor:
    openings = [scale * float(mouth.open[max(0, i - delay)]) for i in range(len(mouth.open))]
    return torch.stack([paint_face(rows, head=head) for rows in openings])


def make_case(
    mouth: Mouth = MOUTH, truth: Tensor | None = None, portrait: Tensor | None = None, head: Head = HEAD
) -> Case:
    silence = Recording(torch.zeros(1, 640 * len(mouth.open)), 16000)
    speaker = Speaker(
        head=head, speech=silence, mouth=mouth, truth=torch.zeros(0) if truth is None else truth
    )
    return Case(name="", portrait=paint_face(0) if portrait is None else portrait, speakers=(speaker,))


def measure(
    frames: Tensor,
    mouth: Mouth = MOUTH,
    strangers: Sequence[Tensor] = (),
    truth: Tensor | None = None,
    **more: Any,
) -> Figures:
    others = [make_case(portrait=each) for each in strangers]
    return measure_video(frames, make_case(mouth, truth), new_frames=NEW_FRAMES, strangers=others, **more)


@pytest.mark.parametrize("yaw", HEADS)
@pytest.mark.parametrize("rows", [0.0, 2.0, 5.0, 8.0])
def test_openings_are_counted_wherever_the_mouth_is(rows: float, yaw: float) -> None:
    head = HEADS[yaw]
    frames = torch.stack([paint_face(each, head=head) for each in (rows, 0, 8)])
    expected = rows * OPENING_UNITS / (HEIGHT * (head.box.bottom - head.box.top))
    assert float(measure_openings(frames, paint_face(0), head)[0]) == pytest.approx(expected, abs=0.7)


def test_what_is_red_elsewhere_is_no_mouth() -> None:
    frames = paint_video()
    flashing = frames.clone()
    flashing[::2, :, 5:25, 100:130] = torch.tensor(MOUTH_INSIDE)[:, None, None]
    same = measure_openings(frames, paint_face(0), HEAD)
    assert torch.equal(measure_openings(flashing, paint_face(0), HEAD), same)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delayed_mouth_has_its_lag(delay: int) -> None:
    (figures,) = measure(paint_video(delay=delay)).speakers
    assert figures.lag == delay
    assert figures.follows > 0.95 if delay == 0 else figures.follows < 0.95


def test_control_amplitude_and_silence() -> None:
    truth = measure_openings(paint_video(), paint_face(0), HEAD)
    (full,) = measure(paint_video(), other=Mouth(np.roll(MOUTH.open, 10), MOUTH.wide), truth=truth).speakers
    (half,) = measure(paint_video(scale=4.0), truth=truth).speakers
    assert full.control < 0
    assert full.amplitude == pytest.approx(1)
    assert half.amplitude == pytest.approx(0.5, abs=0.1)
    assert full.silent < 0.02
    (still,) = measure(paint_face(3)[None].expand(60, -1, -1, -1)).speakers
    assert math.isnan(still.follows)


def test_two_mouths_are_told_apart() -> None:
    heads = [Head(Region(0.1, 0.2, 0.6, 0.9)), Head(Region(0.9, 0.2, 1.4, 0.9))]
    mouths = [MOUTH, Mouth(np.roll(MOUTH.open, 9), MOUTH.wide)]
    videos = [paint_video(mouth, head=head) for mouth, head in zip(mouths, heads, strict=True)]
    frames = torch.cat((videos[0][..., :72], videos[1][..., 72:]), dim=-1)
    people = [make_case(mouth, head=head).speakers[0] for mouth, head in zip(mouths, heads, strict=True)]
    portrait = torch.cat(
        (paint_face(0, head=heads[0])[..., :72], paint_face(0, head=heads[1])[..., 72:]), dim=-1
    )
    case = Case(name="", portrait=portrait, speakers=tuple(people))
    for speaker in measure_video(frames, case, new_frames=NEW_FRAMES).speakers:
        assert speaker.follows > 0.95
        assert speaker.control < 0.3


def test_identity_and_colour() -> None:
    strangers = [paint_face(0, 0.8), paint_face(0, 1.2)]
    figures = measure(paint_video(), strangers=strangers)
    assert figures.own
    assert figures.colour < 1
    darker = measure(0.9 * paint_video(), strangers=strangers)
    assert darker.worst_colour == pytest.approx(0.1 * float(SKIN.mean()) * 255, rel=0.1)
    portraits = [paint_face(0), *strangers]
    assert find_nearest(0.8 * paint_video(), HEAD, portraits, [HEAD] * 3) == 1
    assert set(measure_colour_errors(paint_video(), paint_face(0), HEAD)) >= {"face", "shirt"}


def test_seams_and_drift() -> None:
    smooth = torch.linspace(0.2, 0.4, 40)[:, None, None, None].expand(40, 3, HEIGHT, WIDTH).clone()
    mouth = make_mouth(40)
    assert measure(smooth, mouth).seam == pytest.approx(1, abs=0.01)
    smooth[20:] += 0.05
    assert 3 < measure(smooth, mouth).seam < 5
    assert 3 < measure(smooth, mouth).ground_seam < 5
    brighter = paint_video(make_mouth(80), scale=0) + torch.linspace(0.01, 0.03, 80)[:, None, None, None]
    assert 2 < measure(brighter, make_mouth(80)).drift < 3


def test_a_summary_keeps_the_worst() -> None:
    good = measure(paint_video())
    (speaker,) = good.speakers
    bad = replace(good, speakers=(replace(speaker, follows=0.2),), seam=9.0)
    summary = summarize([good, bad])
    assert summary["worst_follows"] == 0.2
    assert summary["worst_seam"] == 9.0
    assert summary["follows"] == pytest.approx((speaker.follows + 0.2) / 2)


@pytest.mark.parametrize(
    ("light", "factors"), [("warm", (1, 0.82, 0.55)), ("", (1, 1, 1)), ("dim", (0.55, 0.55, 0.6))]
)
def test_light_is_what_colours_the_skin(light: str, factors: tuple[float, ...]) -> None:
    frames = paint_video()[:12] * torch.tensor(factors)[:, None, None]
    assert measure_light(find_still(frames), paint_face(0), [HEAD]) == light


def test_a_wall_is_a_wall() -> None:
    found = measure_contents(paint_video()[:16], paint_face(0), [HEAD])
    assert found == Contents(ground="wall", weather="", things=frozenset(), light="")


def test_directions_are_judged_in_degrees() -> None:
    assert is_turned((-0.7, 0.3), "left")
    assert not is_turned((-0.3, 0.0), "left")
    assert is_turned((0.5, 0.3), "up")
    assert not is_turned((0.5, 0.1), "up")


def test_prompts_count_what_was_asked() -> None:
    met = Obeyed(True, None, None, None, None, True, 1.0)
    missed = Obeyed(False, True, None, None, None, False, 2.0)
    control = Obeyed(None, None, None, None, None, True, 1.0)
    figures = summarize_prompts([met, missed, control])
    assert figures["ground"] == 0.5
    assert figures["objects"] == 0.5
    assert figures["all"] == pytest.approx(2 / 3)
    assert math.isnan(figures["light"])


@pytest.mark.parametrize("pixels", [-1.0, 0.5, 2.0])
def test_shifts_are_measured(pixels: float) -> None:
    def waves(shift: float) -> Tensor:
        return torch.sin((torch.arange(64) - shift) / 8).expand(3, 64, 64)

    assert measure_shift(waves(0), waves(pixels)) == pytest.approx(pixels, abs=0.05)


def test_a_portrait_of_any_size_fits_the_video() -> None:
    assert resize(paint_face(0, size=(192, 288)), HEIGHT, WIDTH).shape == (3, HEIGHT, WIDTH)
