"""Several people of one picture, by the built-in model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from comfyui.stages import Stages, difference


@pytest.fixture(scope="module")
def pair(stages: Stages) -> Tensor:
    """The portrait twice, half as large, on its wall."""
    half = F.avg_pool2d(stages.portrait.permute(0, 3, 1, 2), 2)
    row = torch.cat((half, half), dim=3)
    wall = row[:, :, :1].expand(-1, -1, half.shape[2] // 2, -1)
    return torch.cat((wall, row, wall), dim=2).permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def two(stages: Stages, pair: Tensor) -> Any:
    return identity_of(stages, pair, "1, 2")


@pytest.fixture(scope="module")
def other(stages: Stages) -> Any:
    wave = 0.3 * torch.sin(torch.arange(16000) * 0.05)[None, None]
    return stages.encode_speech(wave)[0]


def identity_of(stages: Stages, pair: Tensor, faces: str) -> Any:
    inputs = {"portrait": pair, "vae": stages.vae, "reference_network": stages.reference}
    return stages.run("Hallo3IdentitySpeakers", faces=faces, **inputs)[0]


def combine(stages: Stages, *speeches: Any, speakers: str = "") -> Any:
    sockets = {f"speech_{n}": each for n, each in enumerate(speeches, 1) if each is not None}
    return stages.run("Hallo3CombineSpeech", speakers=speakers, **sockets)[0]


@pytest.mark.any_message
def test_two_people_have_a_voice_each(
    stages: Stages, pair: Tensor, two: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Their order does not matter, whose voice is whose does; by all samplers."""
    assert len(two.people) == len(two.face_embedding) == 2
    speech = combine(stages, stages.speech, other)
    found = stages.sample(identity=two, speech=speech, steps=1)
    assert "speakers are untested" not in caplog.text
    turned = identity_of(stages, pair, "2, 1")
    swapped = stages.sample(identity=turned, speech=combine(stages, other, stages.speech), steps=1)
    assert difference(swapped, found) < 1e-3
    crossed = stages.sample(identity=two, speech=combine(stages, other, stages.speech), steps=1)
    assert difference(crossed, found) > 1e-2
    guided = stages.run_ksampler(identity=two, speech=speech)
    assert bool(guided.isfinite().all())


@pytest.mark.any_message
def test_a_person_without_a_voice_is_silent(stages: Stages, two: Any, other: Any) -> None:
    silent = stages.sample(identity=two, speech=stages.speech, steps=1)
    both = stages.sample(identity=two, speech=combine(stages, stages.speech, other), steps=1)
    assert difference(both, silent) > 1e-3
    turns = combine(stages, stages.speech, speakers="[0-60] 1")
    assert torch.isfinite(stages.sample(identity=two, speech=turns, steps=1)).all()


@pytest.mark.any_message
def test_a_video_and_a_saved_identity(stages: Stages, two: Any, other: Any, folders: Path) -> None:
    name = stages.save_identity("pair", two)
    saved, _ = stages.run("Hallo3LoadIdentity", file=name)
    assert saved.people == two.people
    speech = combine(stages, other, None, None)
    images = stages.extrapolate(identity=saved, speech=speech, steps=1)
    assert len(images) == other.speech.plan.frames
    del folders


def test_what_does_not_fit_is_refused(stages: Stages, pair: Tensor, other: Any) -> None:
    error = stages.errors.InputError
    speech = combine(stages, stages.speech, other)
    with pytest.raises(error, match="more voices than faces"):
        stages.sample(speech=speech)
    with pytest.raises(error, match="several voices already"):
        combine(stages, speech)
    with pytest.raises(error, match="one recording of several"):
        combine(stages, stages.speech, other, speakers="[0-1] 1")
    with pytest.raises(error, match="Who speaks when"):
        combine(stages, other, speakers="[0-1] 1\n[70-80] 2")
    for faces in ("1, 1", "0", "a", "1, 2, 3, 4, 5", ""):
        with pytest.raises(error, match="faces cannot be used"):
            identity_of(stages, pair, faces)
    with pytest.raises(error, match="no face of this number"):
        identity_of(stages, pair, "1, 3")
