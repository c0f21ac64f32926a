"""Which segments ``redo`` names."""

from pathlib import Path

import pytest

from hallo3.errors import InputError
from hallo3.jobs.job import open_job
from hallo3.jobs.redo import NO_REDO, Redo, parse_redo, segment_ends
from hallo3.segments import SegmentPlan
from support.toy_renderer import FORM, PLAN, SEGMENTS, Toy

ENDS = [2.0, 4.0, 6.0, 8.0, 9.5]
"""Of five segments."""


@pytest.mark.parametrize(
    "text", ["0", "6", "3-2", "1-6", "10s", "9.5s", "6s-4s", "0s-9.6s", "0:08-0:10", "9" * 9]
)
def test_a_redo_of_missing_segments_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="video does not have") as refused:
        parse_redo(text, 1, ENDS)
    assert "of 1 to 5, or a time" in refused.value.expected
    assert "0.00 s to 9.50 s" in refused.value.expected


@pytest.mark.parametrize(
    "text", ["a", "1-2-3", "-", "-3", "1,2", "9" * 30, "12.5", "1-2.5", "s", "1:2:3:4", ":5", "1s-s"]
)
def test_what_is_neither_segments_nor_a_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="`redo` cannot be read") as refused:
        parse_redo(text, 1, ENDS)
    assert "12.5s" in refused.value.fix


def test_segments_are_counted_from_one() -> None:
    assert [parse_redo(text, 1, ENDS) for text in ("2", "4-")] == [Redo(2, 2, 1), Redo(4, 5, 1)]
    assert parse_redo(" 2 - 4 ", 3, ENDS) == Redo(2, 4, 3)
    assert parse_redo(" ", 1, ENDS) == NO_REDO
    with pytest.raises(InputError, match="The take is invalid"):
        parse_redo("2", 0, ENDS)
    assert parse_redo("4-", 1, ENDS, 3) == Redo(4, 5, 1)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0s", 1, 1),
        ("1.99s", 1, 1),
        ("2s", 2, 2),
        ("0:03", 2, 2),
        ("0s-2s", 1, 1),
        ("0s-2.01s", 1, 2),
        ("3-5s", 2, 3),
        ("2s-2s", 2, 2),
        ("0:02\N{EN DASH}0:08", 2, 4),
        ("0:07.5-", 4, 5),
        ("9.4s-9.5s", 5, 5),
        ("0:00:05 - 8.5s", 3, 5),
    ],
)
def test_a_stretch_of_time_names_the_segments_that_it_touches(text: str, first: int, last: int) -> None:
    assert parse_redo(text, 2, ENDS) == Redo(first, last, 2)


def test_segments_of_a_continued_video_keep_their_place_and_cannot_be_redone(tmp_path: Path) -> None:
    for redo, text in ("2-5", "of 4 to 5"), ("5s-7s", "6.00 s to 9.50 s"), ("0:00", "0:06-0:10"):
        with pytest.raises(InputError, match=text):
            parse_redo(redo, 1, ENDS, 3)
    assert parse_redo("6s-7s", 1, ENDS, 3) == Redo(4, 4, 1)
    toy = Toy()
    toy.run(tmp_path)
    with open_job(tmp_path, toy.manifest, FORM) as parent:
        fps, whole = PLAN.config.fps, segment_ends(PLAN, None)
        assert len(whole) == SEGMENTS
        assert whole[-1] == PLAN.frames / fps
        more = segment_ends(SegmentPlan(PLAN.config.new_frames + 1, PLAN.config), parent)
        ends = [(PLAN.frames + PLAN.config.new_frames + part) / fps for part in (0, 1)]
        assert more == [*whole, *ends]


def test_cues_are_the_segments_they_touch() -> None:
    cues = [(0.0, 1.0), (1.0, 4.5), (4.5, 2.0**53)]
    found = [parse_redo(text, 2, ENDS, cues=cues) for text in ("cue 1", "cue 2", "cue 3", "cues 1-2")]
    assert found == [Redo(1, 1, 2), Redo(1, 3, 2), Redo(3, 5, 2), Redo(1, 3, 2)]
    assert parse_redo("cue 1", 1, ENDS, 3, cues) == Redo(4, 4, 1), "after a video that it continues"
    for text, expected in {"cue 4": "from 1 to 3", "cue 0": "from 1 to 3", "cue 2-1": "from 1 to 3"}.items():
        with pytest.raises(InputError, match="cues that the script does not have") as refused:
            parse_redo(text, 1, ENDS, cues=cues)
        assert expected in refused.value.expected
    with pytest.raises(InputError, match="cues that the script does not have"):
        parse_redo("cue 1", 1, ENDS)
