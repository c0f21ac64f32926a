"""The measures of behaviour find in drawn videos what was drawn."""

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from behaviour.cases import Case, pairs, read_cases, read_prompts, singles
from behaviour.figures import summarize_prompts
from training.testset import SEGMENT
from training.truth import measure_answers, measure_drawn

FOLDER = Path(__file__).parents[1] / "data" / "behaviour"


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return read_cases(FOLDER, SEGMENT)


def test_drawn_people_follow_their_own_speech(cases: list[Case]) -> None:
    """One turned by 60 degrees, one seen from below, and a pair."""
    figures = measure_drawn([*singles(cases)[5:7], pairs(cases)[0]])
    for each in figures:
        assert each.own
        assert 0.6 < each.seam < 1.4
        assert each.sharpness == pytest.approx(1, abs=0.01)
        for speaker in each.speakers:
            assert speaker.follows >= 0.97
            assert speaker.amplitude == pytest.approx(1, abs=0.02)
            assert abs(speaker.lag) == 0
            assert speaker.yaw < 10
            assert speaker.pitch < 8
    assert all(speaker.control < 0.15 for speaker in figures[-1].speakers)


def test_prompts_are_obeyed_in_drawn_answers_only(cases: list[Case]) -> None:
    prompts = [each for each in read_prompts(FOLDER) if each.name == "04"][:8]
    obeyed = summarize_prompts(measure_answers(cases, prompts, obey=True))
    ignored = summarize_prompts(measure_answers(cases, prompts, obey=False))
    assert obeyed["asked"] >= 0.85
    assert obeyed["change"] == pytest.approx(1, abs=0.02)
    assert ignored["asked"] <= 0.15
