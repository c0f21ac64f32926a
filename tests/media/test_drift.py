"""How drift is measured, kept and drawn."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.media.drift import Drift, columns_of, finite, measure_drift
from hallo3.media.plots import NARROWEST, clock, draw_drift

SIDE = 32


def picture(height: int = SIDE, width: int = SIDE) -> Tensor:
    """Detail at every scale, away from black and white."""
    drawn = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    slopes = torch.stack((y.expand(height, width), x.expand(height, width), x * y))
    return 0.3 + 0.1 * drawn + 0.2 * slopes


def film(shown: Tensor, frames: int = 15) -> Tensor:
    return shown.expand(frames, -1, -1, -1)


def moving(shown: Tensor, frames: int = 15) -> Tensor:
    """A pixel further in every frame."""
    return torch.stack([shown.roll(place, dims=-1) for place in range(frames)])


def blurred(shown: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(shown[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]


def as_number(value: float | None) -> float:
    assert value is not None
    return value


def test_the_portrait_itself_has_not_drifted() -> None:
    shown = picture()
    first = measure_drift(film(shown), shown, None).as_dict()
    assert first == pytest.approx({"sharpness": 1, "colour": 0}, abs=1e-4)
    later = measure_drift(film(shown), shown, shown).as_dict()
    assert later == pytest.approx({"sharpness": 1, "colour": 0, "seam": 1}, abs=1e-4)


def test_blur_and_noise_are_seen_as_such() -> None:
    shown = picture()
    once, twice = blurred(shown), blurred(blurred(shown))
    soft, softer = (as_number(measure_drift(film(one), shown, None).sharpness) for one in (once, twice))
    assert softer < soft < 0.5
    noisy = shown + 0.1 * torch.rand(15, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert as_number(measure_drift(noisy, shown, None).sharpness) > 1.2
    edge = torch.full((3, SIDE, SIDE), 0.2)
    edge[..., SIDE // 2 :] = 0.8
    assert as_number(measure_drift(film(blurred(edge)), edge, None).sharpness) < 0.7


@pytest.mark.parametrize("tint", [(12, 12, 12), (-9, 0, 0), (10, -20, 3)])
def test_a_tint_is_measured(tint: tuple[int, int, int]) -> None:
    shown = picture()
    found = measure_drift(film(shown + torch.tensor(tint)[:, None, None] / 255), shown, None)
    assert found.colour == pytest.approx(sum(map(abs, tint)) / 3, rel=0.1)
    assert found.sharpness == pytest.approx(1, abs=0.01)


def test_a_shift_that_cancels_over_the_picture_is_seen() -> None:
    shown = picture()
    tilted = shown.clone()
    tilted[:, : SIDE // 2] += 10 / 255
    tilted[:, SIDE // 2 :] -= 10 / 255
    assert measure_drift(film(tilted), shown, None).colour == pytest.approx(10, rel=0.1)


def test_a_jump_at_the_seam_is_seen() -> None:
    video = moving(picture(), 16)
    assert measure_drift(video[1:], video[0], video[0]).seam == pytest.approx(1, abs=0.1)
    assert as_number(measure_drift(video[1:], video[0], video[0] + 0.3).seam) > 3
    assert measure_drift(video[1:], video[0], None).seam is None
    assert measure_drift(video[:1], video[0], video[0]).seam is None


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_have_finite_drifts(value: float) -> None:
    flat, shown = torch.full((3, SIDE, SIDE), value), picture()
    assert measure_drift(film(flat), flat, flat) == Drift(sharpness=1.0, colour=0.0, seam=1.0)
    for frames, portrait in ((film(flat), shown), (moving(shown), flat)):
        found = measure_drift(frames, portrait, flat).as_dict()
        assert found.keys() == {"sharpness", "colour", "seam"}
        assert all(math.isfinite(number) and number >= 0 for number in found.values())


def test_shapes_types_and_what_is_left_alone() -> None:
    shown = picture(5, 3)
    frames = moving(shown, 4)
    found = measure_drift(frames, shown, shown)
    assert measure_drift(frames.clone().requires_grad_(), shown, shown) == found
    half = measure_drift(frames.half(), shown.half(), shown.half())
    assert half.as_dict() == pytest.approx(found.as_dict(), rel=0.02, abs=0.05)
    torch.testing.assert_close(frames, moving(picture(5, 3), 4), rtol=0, atol=0)
    for wrong in (frames[0], frames[:0], frames[:, :1], frames[..., :2]):
        with pytest.raises(ValueError, match="frames"):
            measure_drift(wrong, shown, None)
    with pytest.raises(ValueError, match="portrait"):
        measure_drift(frames, picture(5, 4), None)
    with pytest.raises(ValueError, match="before"):
        measure_drift(frames, shown, picture(4, 3))


def test_finite() -> None:
    frames = film(picture()).clone()
    assert finite(frames)
    for bad in (math.nan, math.inf, -math.inf):
        frames[3, 1, 2, 5] = bad
        assert not finite(frames)


@pytest.mark.parametrize(("shape", "most"), [((15, 32, 32), 0.02), ((47, 480, 720), 0.6)])
def test_measuring_is_cheap(shape: tuple[int, int, int], most: float) -> None:
    """Several times what it takes on two slow cores; the best of 8."""
    shown = picture(*shape[1:])
    video = film(shown, shape[0]).contiguous()
    times: list[float] = []
    for _ in range(8):
        start = time.perf_counter()
        assert measure_drift(video, shown, shown).sharpness == pytest.approx(1)
        times.append(time.perf_counter() - start)
    assert min(times) <= most


def test_there_and_back() -> None:
    drift = Drift(sharpness=0.5, colour=3.25, seam=2.0, face=-0.5)
    for one in (drift, replace(drift, seam=None, face=None), Drift()):
        assert Drift.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    newer = {"sharpness": 1, "later": "unknown", "face": None}
    assert Drift.from_dict(newer) == Drift(sharpness=1.0)
    wrong: tuple[object, ...] = (math.nan, math.inf, 10**400, "1", True, [1.0], {})
    for bad in wrong:
        with pytest.raises(ValueError, match="colour"):
            Drift.from_dict({"colour": bad})


def test_columns() -> None:
    values = torch.tensor([1.0, 3.0, math.nan, 5.0, math.nan, math.inf, 2.0])
    assert [column.mean for column in columns_of(values, 10)] == [1, 3, 5, 2]
    first, last = columns_of(values, 3)[0], columns_of(values, 3)[-1]
    assert (first.start, first.low, first.mean, first.high) == (0, 1, 2, 3)
    assert (last.stop, last.mean) == (1, 2)
    assert columns_of(values[:0], 3) == []


def run(count: int, rise: float = 0, face: float | None = None) -> list[Drift]:
    """So many segments, the colour rising by so much from first to last."""
    first = Drift(sharpness=0.9, colour=2.0, face=face)
    later = [replace(first, colour=2 + rise * place / count, seam=1.5) for place in range(1, count)]
    return [first, *later]


@pytest.mark.parametrize("count", [1, 3, 2000])
@pytest.mark.parametrize("width", [NARROWEST, 960])
def test_a_chart_of_any_length(count: int, width: int) -> None:
    chart = draw_drift(run(count), 1.88, width=width)
    assert chart.shape == (3, draw_drift(run(2), 1).shape[1], width)
    assert chart.dtype == torch.float32
    assert finite(chart)
    assert float(chart.min()) >= 0
    assert float(chart.max()) == 1
    assert torch.equal(chart, draw_drift(run(count), 1.88, width=width))


def test_a_chart_shows_what_differs() -> None:
    for count in (3, 2000):
        flat, rising = draw_drift(run(count), 1.0), draw_drift(run(count, rise=6), 1.0)
        rows = (flat != rising).any(dim=0).any(dim=1).nonzero()
        assert 0 < len(rows) < 130, "one panel of three"
    assert draw_drift(run(3, face=0.9), 1.0).shape[1] > draw_drift(run(3), 1.0).shape[1]


def test_a_chart_of_what_could_not_be_measured() -> None:
    gaps = [*run(4), Drift(), Drift(sharpness=math.nan, colour=math.inf, seam=1e308), *run(4)]
    for drifts in ([Drift()], gaps, [Drift(sharpness=-1e308, seam=4e4)] * 500):
        assert finite(draw_drift(drifts, 0.04))
    none: list[Drift] = []
    wrong = ((none, 1, 960), (gaps, 0, 960), (gaps, math.nan, 960), (gaps, 1, 99))
    for drifts, seconds, width in wrong:
        with pytest.raises(ValueError, match="cannot draw"):
            draw_drift(drifts, seconds, width=width)


def test_clock() -> None:
    assert [clock(0), clock(83), clock(59.6), clock(3760)] == ["0:00", "1:23", "1:00", "62:40"]
    assert [clock(0.6, True), clock(59.97, True)] == ["0:00.6", "1:00.0"]
