import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.media.drift import Drift, measure_drift

SIDE = 32


def draw_picture(height: int = SIDE, width: int = SIDE) -> Tensor:
    """Detail at every scale, away from black and white."""
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    slopes = torch.stack((y.expand(height, width), x.expand(height, width), x * y))
    return 0.3 + 0.1 * noise + 0.2 * slopes


PICTURE = draw_picture()


def still(picture: Tensor, frames: int = 15) -> Tensor:
    return picture.expand(frames, -1, -1, -1)


def moving(picture: Tensor, frames: int = 15) -> Tensor:
    """One pixel further in every frame."""
    return torch.stack([picture.roll(place, dims=-1) for place in range(frames)])


def blur(picture: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(picture[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]


def measure(frames: Tensor, portrait: Tensor, before: Tensor | None = None) -> dict[str, float]:
    return measure_drift(frames, portrait, before).as_dict()


def test_the_portrait_itself_has_not_drifted() -> None:
    none = {"sharpness": 1, "colour": 0}
    assert measure(still(PICTURE), PICTURE) == pytest.approx(none, abs=1e-4)
    assert measure(still(PICTURE), PICTURE, PICTURE) == pytest.approx({**none, "seam": 1}, abs=1e-4)


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    soft = measure(still(blur(PICTURE)), PICTURE)["sharpness"]
    assert measure(still(blur(blur(PICTURE))), PICTURE)["sharpness"] < soft < 0.5
    noisy = PICTURE + 0.1 * torch.rand(15, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert measure(noisy, PICTURE)["sharpness"] > 1.2
    edge = torch.where(torch.arange(SIDE) < SIDE // 2, 0.2, 0.8).expand(3, SIDE, SIDE)
    assert measure(still(blur(edge)), edge)["sharpness"] < 0.7


def test_a_tint_is_measured_also_if_it_cancels_over_the_picture() -> None:
    for tint in ((12, 12, 12), (-9, 0, 0), (10, -20, 3)):
        drift = measure(still(PICTURE + torch.tensor(tint)[:, None, None] / 255), PICTURE)
        assert drift["colour"] == pytest.approx(sum(map(abs, tint)) / 3, rel=0.1)
        assert drift["sharpness"] == pytest.approx(1, abs=0.01)
    tilt = (torch.arange(SIDE) < SIDE // 2).float()[:, None] * 20 / 255 - 10 / 255
    assert measure(still(PICTURE + tilt), PICTURE)["colour"] == pytest.approx(10, rel=0.1)


def test_a_jump_at_the_seam_is_measured() -> None:
    video = moving(draw_picture(), 16)
    assert measure(video[1:], video[0], video[0])["seam"] == pytest.approx(1, abs=0.1)
    assert measure(video[1:], video[0], video[0] + 0.3)["seam"] > 3
    assert "seam" not in measure(video[1:], video[0])
    assert "seam" not in measure(video[:1], video[0], video[0])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_have_finite_drifts(value: float) -> None:
    flat = torch.full((3, SIDE, SIDE), value)
    assert measure(still(flat), flat, flat) == {"sharpness": 1, "colour": 0, "seam": 1}
    for frames, portrait in ((still(flat), PICTURE), (moving(PICTURE), flat)):
        drift = measure(frames, portrait, flat)
        assert drift.keys() == {"sharpness", "colour", "seam"}
        assert all(math.isfinite(number) and number >= 0 for number in drift.values())


def test_any_type_is_measured_and_other_shapes_are_refused() -> None:
    picture = draw_picture(5, 3)
    frames = moving(picture, 4)
    drift = measure(frames, picture, picture)
    assert measure(frames.clone().requires_grad_(), picture, picture) == drift
    half = measure(frames.half(), picture.half(), picture.half())
    assert half == pytest.approx(drift, rel=0.02, abs=0.05)
    torch.testing.assert_close(frames, moving(draw_picture(5, 3), 4), rtol=0, atol=0)
    for wrong in (frames[0], frames[:0], frames[:, :1], frames[..., :2]):
        with pytest.raises(ValueError, match="frames"):
            measure_drift(wrong, picture, None)
    with pytest.raises(ValueError, match="portrait"):
        measure_drift(frames, draw_picture(5, 4), None)
    with pytest.raises(ValueError, match="before"):
        measure_drift(frames, picture, draw_picture(4, 3))


def test_drifts_survive_json() -> None:
    drift = Drift(sharpness=0.5, colour=3.25, seam=2.0, face=-0.5)
    for each in (drift, replace(drift, seam=None, face=None), Drift()):
        assert Drift.from_dict(json.loads(json.dumps(each.as_dict()))) == each
    newer = {"sharpness": 1, "later": "unknown", "face": None}
    assert Drift.from_dict(newer) == Drift(sharpness=1.0)
    for value in (math.nan, math.inf, 10**400, "1", True, [1.0], {}):
        with pytest.raises(ValueError, match="colour"):
            Drift.from_dict({"colour": value})
