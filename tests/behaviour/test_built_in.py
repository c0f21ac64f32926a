"""The built-in model behaves: the mouth follows the words, the face stays the same face, segments join.

Portraits and sentences are outside what it was trained on; weights, sampler and steps are those that ship,
and frames come the way every render goes. Then the same figures of models that must fail them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from behaviour.carry import carried
from behaviour.cases import Case, read_cases
from behaviour.figures import Figures, figures, summary
from behaviour.suite import film, identity_of, judged, silence_ratio, spoken_on
from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import SIZES, write_random_set
from hallo3.config import BUILT_IN
from hallo3.identity import Identity
from hallo3.loading import load_models
from hallo3.models import Models
from hallo3.quantization.precision import PRECISIONS

WORST_PATCH = 15
"""Mean over clips of the patch farthest off in colour, in 255ths: 5 for the model, 26 when it has another
person's reference features, although then the mean patch is off by 7 only."""
FEW = slice(0, 3)
"""Cases for models that must fail: enough, since they fail by far."""


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return read_cases(Path(__file__).parents[1] / "data" / "behaviour", BUILT_IN.segment)


@pytest.fixture(scope="module")
def found(cases: list[Case], models: Models) -> list[Figures]:
    return judged(cases, models)


@pytest.fixture(scope="module")
def means(found: list[Figures]) -> dict[str, float]:
    return summary(found)


def test_the_mouth_follows_the_words(means: dict[str, float]) -> None:
    assert means["follows"] >= 0.70
    assert means["worst_follows"] >= 0.45
    assert means["control"] <= 0.15
    assert means["amplitude"] >= 0.55


def test_on_time(found: list[Figures]) -> None:
    assert sorted(one.lag for one in found)[len(found) // 2] == 0
    assert all(abs(one.lag) <= 1 for one in found)


def test_it_is_the_same_person(found: list[Figures], means: dict[str, float]) -> None:
    assert all(one.own for one in found)
    assert means["colour"] <= 8
    assert means["worst_colour"] <= WORST_PATCH


def test_segments_join(means: dict[str, float]) -> None:
    assert means["seam"] <= 6


def test_silence_shuts_the_mouth(cases: list[Case], models: Models) -> None:
    ratios = [silence_ratio(case, models) for case in cases[FEW]]
    assert sum(ratios) / len(ratios) <= 0.10


def test_a_minute_does_not_drift(cases: list[Case], models: Models) -> None:
    case = spoken_on(cases, cases[1].portrait, models, 60)
    made = figures(film(case, models), case.portrait, case.mouth, new_frames=BUILT_IN.segment.new_frames)
    assert made.drift <= 1.3
    assert made.follows >= 0.70


def passes(found: list[Figures]) -> dict[str, bool]:
    """Each promise, kept or not."""
    means = summary(found)
    return {
        "follows": means["follows"] >= 0.70 and means["control"] <= 0.15,
        "same person": all(one.own for one in found)
        and means["colour"] <= 8
        and means["worst_colour"] <= WORST_PATCH,
        "joined": means["seam"] <= 6,
    }


def test_the_few_pass(found: list[Figures]) -> None:
    """What the models below fail, this one does not, on the same cases."""
    assert all(passes(found[FEW]).values())


def test_random_weights_fail(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "built-in", BUILT_IN)
    write_random_set(tmp_path, 1, "built-in")
    random = load_models(tmp_path, torch.device("cpu"), PRECISIONS["fp32"])
    kept = passes(judged(cases[FEW], random))
    assert not kept["follows"]
    assert not kept["same person"]


def test_another_recording_fails(cases: list[Case], models: Models) -> None:
    kept = passes(judged(cases[FEW], models, speech_of_next=True))
    assert not kept["follows"]
    assert kept["same person"]


def test_another_persons_features_fail(cases: list[Case], models: Models) -> None:
    def swap(identity: Identity, number: int) -> Identity:
        stranger = identity_of(cases[number + 3], models)
        return replace(identity, reference_features=stranger.reference_features)

    assert not passes(judged(cases[FEW], models, swap=swap))["same person"]


def test_segments_go_on_from_their_motion_frames(cases: list[Case], models: Models) -> None:
    for case in cases[FEW]:
        assert carried(case, models) >= 0.10
        assert abs(carried(case, models, motion_drop=1.0)) < 0.01


def light_of(prompt: str) -> Callable[[list[Case], Models], torch.Tensor]:
    def mean_colour(cases: list[Case], models: Models) -> torch.Tensor:
        return film(cases[0], models, prompt=prompt).mean(dim=(0, 2, 3))

    return mean_colour


def test_the_prompt_sets_the_light(cases: list[Case], models: Models) -> None:
    plain, neutral, warm, blue, dim = (
        light_of(prompt)(cases, models)
        for prompt in (
            "",
            "A person talks to the camera.",
            "a person in warm light",
            "a person in blue light",
            "a person in dim light",
        )
    )
    assert float((plain - neutral).abs().max()) < 0.03
    assert warm[2] < plain[2] - 0.1 < plain[2]
    assert blue[0] < plain[0] - 0.1
    assert bool((dim < plain - 0.1).all())
