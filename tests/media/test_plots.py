"""The picture of a recording as it is listened to."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from hallo3.media.loudness import AS_RECORDED, EVENED, MUTED, LoudnessMeter, make_gain_curve
from hallo3.media.plots import NARROWEST, draw_speech
from hallo3.noise import make_generator
from support.audio_samples import RATE

BLUE, ORANGE, RED = (0x00, 0x72, 0xB2), (0xB8, 0x4A, 0x00), (0xD1, 0x23, 0x2A)
SHADE = (0xE7, 0xE2, 0xDA)


def gathered(signal: Tensor) -> LoudnessMeter:
    loudness = LoudnessMeter(RATE, 25)
    loudness.add(signal)
    return loudness


def noise(seconds: float, level: float = -20) -> Tensor:
    drawn = make_generator("noise").standard_normal(max(1, round(seconds * RATE)), dtype="float32")
    return torch.from_numpy(drawn) * 10 ** (level / 20)


def pixels(chart: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """[H, W] bool: where the chart has exactly this colour."""
    wanted = torch.tensor(colour)[:, None, None]
    return ((chart * 255).round().long() == wanted).all(dim=0)


@pytest.mark.parametrize("seconds", [0, 0.04, 3, 60])
@pytest.mark.parametrize("width", [NARROWEST, 960])
def test_a_chart_of_any_length(seconds: float, width: int) -> None:
    chart = draw_speech(gathered(noise(seconds)), 47, width=width)
    assert chart.shape == (3, draw_speech(gathered(noise(5)), 15).shape[1], width)
    assert chart.dtype == torch.float32
    assert float(chart.min()) >= 0
    assert float(chart.max()) == 1
    assert torch.equal(chart, draw_speech(gathered(noise(seconds)), 47, width=width))


def test_three_hours_are_drawn_quickly() -> None:
    loudness, minute = LoudnessMeter(RATE, 25), noise(60)
    for _ in range(180):
        loudness.add(minute)
    curve = make_gain_curve(loudness, EVENED, MUTED)
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        assert bool(pixels(draw_speech(loudness, 47, gains=curve), BLUE).any())
        times.append(time.perf_counter() - start)
    assert min(times) <= 5


def test_louder_is_higher() -> None:
    places = [
        float(pixels(draw_speech(gathered(noise(4, level)), 47), BLUE).nonzero()[:, 0].float().median())
        for level in (-10, -20, -40)
    ]
    assert places == sorted(places)
    assert places[1] - places[0] == pytest.approx((places[2] - places[1]) / 2, rel=0.1)


def test_silence_is_shaded_where_it_is() -> None:
    spoken = draw_speech(gathered(noise(6)), 47)
    signal = noise(6)
    signal[2 * RATE : 4 * RATE] = 0
    paused = draw_speech(gathered(signal), 47)
    row = pixels(paused, SHADE)[90:250].sum(dim=0)
    inside = row[64 + 764 // 3 + 40 : 64 + 2 * 764 // 3 - 30]
    assert int((inside > 100).sum()) > 0.9 * len(inside)
    assert int(row[64 : 64 + 764 // 3].max()) == 0
    assert not bool(pixels(spoken, SHADE).any())


def test_full_scale_is_marked() -> None:
    loud = noise(4)
    assert not bool(pixels(draw_speech(gathered(loud), 47), RED).any())
    loud[2 * RATE] = 1.0
    found = pixels(draw_speech(gathered(loud), 47), RED)
    columns = found[:76].any(dim=0).nonzero()
    assert 64 + 764 // 2 - 3 <= int(columns.min()) <= int(columns.max()) <= 64 + 764 // 2 + 10


def test_what_is_heard_has_a_line_of_its_own() -> None:
    loudness = gathered(torch.cat((noise(4, -15), noise(4, -35))))
    assert make_gain_curve(loudness, AS_RECORDED, AS_RECORDED) is None
    plain = draw_speech(loudness, 47)
    evened = draw_speech(loudness, 47, gains=make_gain_curve(loudness, EVENED, AS_RECORDED))
    assert not bool(pixels(plain, ORANGE).any())
    heard = pixels(evened, ORANGE)[:, 500:820].nonzero()[:, 0].float().median()
    recorded = pixels(evened, BLUE)[90:, 500:820].nonzero()[:, 0].float().median() + 90
    assert 40 <= float(recorded - heard) <= 80, "twenty decibels of sixty, on 190 rows"


@pytest.mark.parametrize(("seconds", "a_segment"), [(6.0, 47), (60.0, 47), (6.0, 1), (600.0, 15)])
def test_borders_are_where_segments_meet_and_do_not_crowd(seconds: float, a_segment: int) -> None:
    lane = draw_speech(gathered(noise(seconds)), a_segment)[:, 268:274, 60:829]
    dark = (lane.mean(dim=(0, 1)) < 0.8).nonzero()[:, 0] - 4
    width = 764 * a_segment / (seconds * 25)
    groups = dark[torch.cat((torch.tensor([True]), dark.diff() > 1))]
    assert 2 <= len(groups) <= 764 / 4
    assert len(groups) <= seconds * 25 / a_segment + 1
    places = groups / width
    assert float((places - places.round()).abs().max()) * width <= 1.5


@pytest.mark.parametrize(
    ("frames", "a_segment", "width"), [(0, 47, 960), (10, 0, 960), (10, 47, NARROWEST - 1)]
)
def test_what_cannot_be_drawn_is_refused(frames: int, a_segment: int, width: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        draw_speech(gathered(torch.ones(frames * 640)), a_segment, width=width)
