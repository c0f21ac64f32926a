"""Floors of the built-in model: the mouth follows the speech, the person stays the same, segments join.

Portraits and sentences are not from its training; weights, sampler and steps are the shipped ones. Then the
same figures of models that must fail them.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from behaviour.carry import measure_carry
from behaviour.cases import Case, make_case, read_cases
from behaviour.figures import Figures, measure_video, summarize
from behaviour.pixels import measure_opening, resize_square
from behaviour.suite import make_identity, make_long_case, measure_cases, measure_silence, render_case
from hallo3.built_in import FOLDER
from hallo3.checkpoints.random_weights import SIZES, write_random_set
from hallo3.config import BUILT_IN
from hallo3.identity import Identity
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.quantization import PRECISIONS
from hallo3.sampling.strengths import Strengths, parse_curve
from hallo3.script import parse_script

MAX_PATCH_ERROR = 15
"""Mean over clips of the worst patch's colour error, in 255ths: 5 for the model, 26 with another person's
reference features, although the mean patch then differs by 7 only."""
TWO, THREE = slice(0, 2), slice(0, 3)
"""Cases for models that must fail, which they do by far; for what else is not measured on all."""


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return read_cases(Path(__file__).parents[1] / "data" / "behaviour", BUILT_IN.segment)


@pytest.fixture(scope="module")
def figures(cases: list[Case], models: Models) -> list[Figures]:
    return measure_cases(cases, models)


def check_floors(figures: list[Figures]) -> dict[str, bool]:
    means = summarize(figures)
    return {
        "follows": means["follows"] >= 0.70 and means["control"] <= 0.15,
        "same person": all(each.own for each in figures)
        and means["colour"] <= 8
        and means["worst_colour"] <= MAX_PATCH_ERROR,
        "joined": means["seam"] <= 6,
    }


def test_the_model_meets_every_floor(figures: list[Figures]) -> None:
    means = summarize(figures)
    assert all(check_floors(figures).values()), means
    assert all(check_floors(figures[TWO]).values())
    assert means["worst_follows"] >= 0.45
    assert means["amplitude"] >= 0.55


def test_the_mouth_is_on_time(figures: list[Figures]) -> None:
    assert sorted(each.lag for each in figures)[len(figures) // 2] == 0
    assert all(abs(each.lag) <= 1 for each in figures)


def test_silence_closes_the_mouth(cases: list[Case], models: Models) -> None:
    ratios = [measure_silence(case, models) for case in cases[THREE]]
    assert sum(ratios) / len(ratios) <= 0.10


@pytest.mark.parametrize("seconds", [25, pytest.param(60, marks=pytest.mark.soak)])
def test_a_long_video_does_not_drift(cases: list[Case], models: Models, seconds: int) -> None:
    case, new_frames = make_long_case(cases, cases[1].portrait, models, seconds), BUILT_IN.segment.new_frames
    result = measure_video(render_case(case, models), case.portrait, case.mouth, new_frames=new_frames)
    assert result.drift <= 1.3
    assert result.follows >= 0.70


def test_random_weights_fail(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "built-in", BUILT_IN)
    write_random_set(tmp_path, 1, "built-in")
    random = load_models(tmp_path, torch.device("cpu"), PRECISIONS["fp32"])
    floors = check_floors(measure_cases(cases[TWO], random))
    assert (floors["follows"], floors["same person"]) == (False, False)


def test_another_recording_fails(cases: list[Case], models: Models) -> None:
    floors = check_floors(measure_cases(cases[TWO], models, speech_of_next=True))
    assert (floors["follows"], floors["same person"]) == (False, True)


def test_another_persons_features_fail(cases: list[Case], models: Models) -> None:
    def use_stranger(identity: Identity, number: int) -> Identity:
        stranger = make_identity(cases[number + 3], models)
        return replace(identity, reference_features=stranger.reference_features)

    figures = measure_cases(cases[TWO], models, replace_identity=use_stranger)
    assert not check_floors(figures)["same person"]


def test_segments_continue_from_their_motion_frames(cases: list[Case], models: Models) -> None:
    for case in cases[THREE]:
        assert measure_carry(case, models) >= 0.10
        assert abs(measure_carry(case, models, motion_drop=1.0)) < 0.01


def test_the_prompt_sets_the_light(cases: list[Case], models: Models) -> None:
    rate = BUILT_IN.segment.sample_rate
    second = Recording(cases[0].speech.waveform[:, :rate], rate)
    case = make_case("light", cases[0].portrait, second, BUILT_IN.segment)

    def mean_colour(prompt: str) -> torch.Tensor:
        return render_case(case, models, prompt=prompt).mean(dim=(0, 2, 3))

    plain, neutral = mean_colour(""), mean_colour("A person talks to the camera.")
    warm, blue, dim = (mean_colour(f"a person in {light} light") for light in ("warm", "blue", "dim"))
    assert float((plain - neutral).abs().max()) < 0.03
    assert warm[2] < plain[2] - 0.1
    assert blue[0] < plain[0] - 0.1
    assert bool((dim < plain - 0.1).all())


def test_the_light_changes_within_a_segment_of_its_cue_and_not_before(
    cases: list[Case], models: Models
) -> None:
    """How much redder than blue each frame is, under warm light and from 1 s on under blue."""
    new, rate, fps = BUILT_IN.segment.new_frames, BUILT_IN.segment.sample_rate, BUILT_IN.segment.fps
    speech = Recording(cases[0].speech.waveform[:, : 2 * new * rate // fps], rate)
    case = make_case("script", cases[0].portrait, speech, BUILT_IN.segment)
    script = parse_script("[0:00-0:01] a person in warm light\n[0:01-] a person in blue light")
    red, _, blue = render_case(case, models, script=script).mean(dim=(2, 3)).unbind(1)
    warmth, cue = red - blue, fps
    warm, cold = float(warmth[:cue].mean()), float(warmth[-new // 2 :].mean())
    assert warm > cold + 0.2
    assert bool((warmth[:cue] > warm - 0.05).all()), "not before its cue"
    assert bool((warmth[cue + new :] < (warm + cold) / 2).all()), "within one segment"


def test_a_stronger_voice_moves_the_mouth_more(cases: list[Case], models: Models) -> None:
    """Without the speech it moves least, also in the light of a prompt; in the model's one step."""
    rate = BUILT_IN.segment.sample_rate
    second = Recording(cases[0].speech.waveform[:, :rate], rate)
    case = make_case("voice", cases[0].portrait, second, BUILT_IN.segment)
    skin = resize_square(case.portrait, BUILT_IN.segment.height)

    def movement(voice: float, prompt: str = "") -> float:
        strengths = Strengths(parse_curve(1.5, "text strength"), parse_curve(voice, "voice strength"))
        frames = render_case(case, models, prompt=prompt, strengths=strengths)
        return float(measure_opening(frames, skin).std())

    moved = [movement(voice) for voice in (0.0, 1.0, 2.0, 3.5)]
    assert moved[0] < 0.6 * moved[1]
    assert moved == sorted(moved)
    assert movement(0.0, "a person in warm light") < 0.6 * moved[1]
