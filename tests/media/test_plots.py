"""Charts: only the positions and colours that carry a value are tested."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.media.drawing import Pen, round_step
from hallo3.media.drift import Drift
from hallo3.media.loudness import AS_RECORDED, EVENED, MUTED, LoudnessMeter, make_gain_curve
from hallo3.media.plots import LEFT, PLOT_WIDTH, WIDTH, draw_drift, draw_speech
from support.audio_samples import RATE, measure, noise

BLUE, ORANGE, RED, SHADE = (0, 0x72, 0xB2), (0xB8, 0x4A, 0), (0xD1, 0x23, 0x2A), (0xE7, 0xE2, 0xDA)


def test_steps_are_round() -> None:
    steps = {0.011: 0.02, 0.1: 0.1, 0.3: 0.5, 1: 1, 7: 10, 2000: 2000}
    assert [round_step(least) for least in steps] == pytest.approx(list(steps.values()))


def test_a_page_and_a_picture_are_drawn_on_in_their_own_pixels() -> None:
    picture = torch.zeros(3, 20, 30)
    for pen in (Pen.on_picture(picture), Pen.on_page(30, 20)):
        pen.box((10, 5, 19, 14), "#ff0000")
        drawing = pen.picture()
        assert drawing.shape == (3, 20, 30)
        assert drawing[:, 6, 12].tolist() == [1, 0, 0] != drawing[:, 16, 12].tolist()
    assert float(picture.max()) == 0


def run(count: int, rise: float = 0, face: float | None = None) -> list[Drift]:
    """Segments whose colour shift rises from first to last."""
    first = Drift(sharpness=0.9, colour=2.0, face=face)
    return [first, *(replace(first, colour=2 + rise * n / count, seam=1.5) for n in range(1, count))]


def draw(loudness: LoudnessMeter, per_segment: int, **more: Any) -> Tensor:
    starts = range(0, len(loudness.levels), per_segment) if per_segment else ()
    return draw_speech(loudness, starts, **more)


def pixels(chart: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """[H, W] bool: where the chart has exactly this colour."""
    return ((chart * 255).round().long() == torch.tensor(colour)[:, None, None]).all(dim=0)


def middle_row(chart: Tensor, colour: tuple[int, int, int]) -> float:
    return float(pixels(chart, colour).nonzero()[:, 0].float().median())


def check_chart(chart: Tensor, like: Tensor) -> None:
    assert (chart.shape, chart.dtype) == ((3, like.shape[1], WIDTH), torch.float32)
    assert 0 <= float(chart.min()) < float(chart.max()) == 1


@pytest.mark.parametrize("count", [1, 3, 2000])
def test_drift_of_any_length(count: int) -> None:
    chart = draw_drift(run(count), 1.88)
    check_chart(chart, draw_drift(run(2), 1))
    assert torch.equal(chart, draw_drift(run(count), 1.88))
    changed = (draw_drift(run(count, rise=6), 1.88) != chart).any(dim=0).any(dim=1)
    assert int(changed.sum()) < 130, "one panel of three"
    assert bool(changed.any()) == (count > 1)
    assert draw_drift(run(count, face=0.9), 1.88).shape[1] > chart.shape[1]


def test_drift_that_was_not_measured_is_a_gap_and_without_any_nothing_is_drawn() -> None:
    gaps = [*run(4), Drift(), Drift(sharpness=math.nan, colour=math.inf, seam=1e308), *run(4)]
    for drifts in ([Drift()], gaps, [Drift(sharpness=-1e308, seam=4e4)] * 500):
        assert draw_drift(drifts, 0.04).isfinite().all()
    wrong = [(draw_drift, ([], 1)), (draw_drift, (gaps, 0)), (draw_drift, (gaps, math.nan))]
    wrong += [(draw, (measure(torch.ones(n)), each)) for n, each in ((0, 47), (6400, 0))]
    for function, inputs in wrong:
        with pytest.raises(ValueError, match="cannot draw"):
            function(*inputs)


@pytest.mark.parametrize("seconds", [0, 0.04, 3, 60, 3 * 3600])
def test_speech_of_any_length(seconds: float) -> None:
    signal = noise(max(min(seconds, 60), 1 / RATE), -20)
    loudness = measure(signal)
    for _ in range(round(seconds / 60) - 1):
        loudness.add(signal)
    chart = draw(loudness, 47, gains=make_gain_curve(loudness, EVENED, MUTED))
    check_chart(chart, draw(measure(noise(5, -20)), 15))
    assert seconds < 1 or bool(pixels(chart, BLUE).any())


def test_louder_is_higher() -> None:
    charts = [draw(measure(noise(4, level)), 47)[:, 70:] for level in (-10, -20, -40)]
    loud, middle, quiet = (middle_row(chart, BLUE) for chart in charts)
    assert loud < middle < quiet
    assert middle - loud == pytest.approx((quiet - middle) / 2, rel=0.1)


def test_silence_is_shaded_and_full_scale_is_marked_where_they_are() -> None:
    signal, second = noise(6, -20), PLOT_WIDTH / 6
    plain = draw(measure(signal), 47)
    assert not bool((pixels(plain, SHADE) | pixels(plain, RED)).any())
    signal[2 * RATE : 4 * RATE] = 0
    signal[5 * RATE] = 1.0
    chart = draw(measure(signal), 47)
    shaded = pixels(chart, SHADE)[90:250].sum(dim=0)
    inside = shaded[round(LEFT + 2 * second) + 40 : round(LEFT + 4 * second) - 30]
    assert int((inside > 100).sum()) > 0.9 * len(inside)
    assert int(shaded[LEFT : round(LEFT + 2 * second)].max()) == 0
    clipped = pixels(chart, RED)[:76].any(dim=0).nonzero() - LEFT
    assert 5 * second - 3 <= int(clipped.min()) <= int(clipped.max()) <= 5 * second + 10


def test_what_the_encoder_gets_has_its_own_line() -> None:
    loudness = measure(torch.cat((noise(4, -15), noise(4, -35))))
    assert not bool(pixels(draw(loudness, 47), ORANGE).any())
    chart = draw(loudness, 47, gains=make_gain_curve(loudness, EVENED, AS_RECORDED))[:, 70:, 500:820]
    assert 40 <= middle_row(chart, BLUE) - middle_row(chart, ORANGE) <= 80, "20 dB of 60, on 190 rows"


@pytest.mark.parametrize(("seconds", "per_segment"), [(6.0, 47), (60.0, 47), (6.0, 1), (600.0, 15)])
def test_borders_are_where_segments_meet_and_do_not_crowd(seconds: float, per_segment: int) -> None:
    chart = draw(measure(noise(seconds, -20)), per_segment)
    lane = chart[:, 268:274, LEFT - 4 : LEFT + PLOT_WIDTH + 1]
    dark = (lane.mean(dim=(0, 1)) < 0.8).nonzero()[:, 0] - 4
    borders = dark[torch.cat((torch.tensor([True]), dark.diff() > 1))]
    assert 2 <= len(borders) <= min(PLOT_WIDTH / 4, seconds * 25 / per_segment + 1)
    width = PLOT_WIDTH * per_segment / (seconds * 25)
    assert float((borders / width - (borders / width).round()).abs().max()) * width <= 1.5


def test_prompts_have_a_lane_from_their_segment_on() -> None:
    loudness, starts = measure(noise(6, -20)), [0, 40, 90, 120]
    plain = draw_speech(loudness, starts)
    assert torch.equal(plain, draw_speech(loudness, starts, prompts=["a person"] * 4))
    chart = draw_speech(loudness, starts, prompts=["warm light", "warm light", "blue light", ""])
    assert chart.shape[1] == plain.shape[1] + 24
    lane = chart[:, 292:310]
    for colour, places in {
        (0xDC, 0xEF, 0xE6): ((0, 90), (120, 150)),
        (0xEF, 0xE3, 0xEE): ((90, 120),),
    }.items():
        columns = pixels(lane, colour).any(dim=0).nonzero()[:, 0]
        edges = [LEFT + PLOT_WIDTH * frame / 150 for place in places for frame in place]
        assert abs(float(columns.min()) - edges[0]) <= 3
        assert abs(float(columns.max()) - edges[-1]) <= 3
        assert all(
            any(a - 3 <= x <= b + 3 for a, b in zip(edges[::2], edges[1::2], strict=True)) for x in columns
        )
