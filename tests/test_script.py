"""Prompts by time: what a script says, what is refused with its line, and which segments get which prompt."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3.config import HALLO3, NANO
from hallo3.errors import InputError
from hallo3.script import Script, parse_script, read_script
from hallo3.segments import SegmentPlan
from support.messages import collect_messages

SRT = """1
00:00:01,000 --> 00:00:02,500
in <i>warm</i> light

2
00:00:02,500 --> 00:00:04,000
{\\an8}in blue
light
"""
VTT = """WEBVTT a title

NOTE what the camera sees

STYLE
::cue { color: red }

opening
00:01.000 --> 00:02.500 align:start
in warm light

00:00:02.500 --> 00:00:04.000
in blue
light

00:00:04.000 --> 00:00:05.000
<v Ann>What a light!
"""
LINES = "# light\n[0:01-0:02.5] in warm light\n\n[0:02.5 - 4]  in blue   light\n"
ENTRIES = [
    {"start": 1, "end": "0:02.5", "prompt": "in warm light", "speech": "Good evening."},
    {"start": 2.5, "end": 4, "prompt": "in blue light"},
    {"start": 4, "end": 5, "speech": "What a light!"},
]
WANTED = [(1000, 2500, "in warm light"), (2500, 4000, "in blue light")]


@pytest.mark.parametrize(
    "text", [SRT, SRT.replace("\n", "\r\n"), "\ufeff" + SRT, VTT, LINES, json.dumps(ENTRIES)]
)
def test_every_form_says_the_same(text: str) -> None:
    cues = [(cue.start, cue.end, cue.prompt) for cue in parse_script(text).cues if cue.prompt]
    assert cues == WANTED


@pytest.mark.parametrize("text", [VTT, json.dumps(ENTRIES)])
def test_speech_makes_no_prompt(text: str) -> None:
    *_, spoken = parse_script(text).cues
    assert spoken.prompt == ""


def test_a_file_of_speech_alone_makes_no_prompts() -> None:
    spoken = VTT.replace("in warm", "<v Bob>in warm").replace("in blue\n", "<v Bob>in blue\n")
    plan = SegmentPlan(200, HALLO3.segment)
    assert {*parse_script(spoken).prompts(plan, "a person")} == {"a person"}


def test_an_open_cue_lasts_until_the_next() -> None:
    cues = parse_script("[0-] warm\n[0:03-0:05] blue\n[1:00:00-] dim").cues
    assert [(cue.start, min(cue.end, 10**9)) for cue in cues] == [
        (0, 3000),
        (3000, 5000),
        (3600_000, 10**9),
    ]


GOOD = "1\n00:00:01,000 --> 00:00:02,000\nwarm\n\n"
MALFORMED = {
    "an empty file": ("", None),
    "only empty lines": ("\n\n\n", None),
    "no cue": ("1\n", 1),
    "no time": ("1\nwarm light\n", 2),
    "no arrow": ("1\n00:00:01,000 00:00:02,000\nwarm\n", 2),
    "a short arrow": ("1\n00:00:01,000 -> 00:00:02,000\nwarm\n", 2),
    "one time": ("1\n00:00:01,000 -->\nwarm\n", 2),
    "no start": ("1\n--> 00:00:02,000\nwarm\n", 2),
    "three times": ("1\n00:00:01,000 --> 00:00:02,000 --> 00:00:03,000\nwarm\n", 2),
    "no milliseconds": ("1\n00:00:01 --> 00:00:02\nwarm\n", 2),
    "two digits of them": ("1\n00:00:01,00 --> 00:00:02,00\nwarm\n", 2),
    "four digits of them": ("1\n00:00:01,0000 --> 00:00:02,0000\nwarm\n", 2),
    "99 seconds": ("1\n00:00:99,000 --> 00:02:00,000\nwarm\n", 2),
    "99 minutes": ("1\n00:99:00,000 --> 02:00:00,000\nwarm\n", 2),
    "a negative time": ("1\n-00:00:01,000 --> 00:00:02,000\nwarm\n", 2),
    "letters in a time": ("1\n00:00:0l,000 --> 00:00:02,000\nwarm\n", 2),
    "a backwards cue": ("1\n00:00:03,000 --> 00:00:02,000\nwarm\n", 2),
    "a cue of no length": ("1\n00:00:02,000 --> 00:00:02,000\nwarm\n", 2),
    "no text": ("1\n00:00:01,000 --> 00:00:02,000\n\n", 2),
    "no text but markup": ("1\n00:00:01,000 --> 00:00:02,000\n<i></i>\n", 2),
    "no text in the second": (GOOD + "2\n00:00:02,000 --> 00:00:03,000\n", 6),
    "no empty line between": (GOOD.rstrip() + "\n2\n00:00:02,000 --> 00:00:03,000\nblue\n", 5),
    "an empty line in the text": (GOOD + "blue\n", 5),
    "a word for a number": ("one\n00:00:01,000 --> 00:00:02,000\nwarm\n", 1),
    "a number apart": ("1\n\n00:00:01,000 --> 00:00:02,000\nwarm\n", 1),
    "text before its time": ("1\nwarm\n00:00:01,000 --> 00:00:02,000\n", 2),
    "cues out of order": (GOOD + "2\n00:00:00,000 --> 00:00:00,500\nblue\n", 6),
    "cues that overlap": (GOOD + "2\n00:00:01,500 --> 00:00:03,000\nblue\n", 6),
    "a zero byte": (GOOD + "2\n00:00:02,000 --> 00:00:03,000\nbl\0ue\n", 7),
    "an escape": (GOOD + "2\n00:00:02,000 --> 00:00:03,000\n\x1b[31mred\n", 7),
    "half an emoji": ("1\n00:00:01,000 --> 00:00:02,000\nwarm \ud83d\n", 2),
    "a page": ("<!DOCTYPE html>\n<html></html>\n", 1),
    "WebVTT": ("WEBVTT\n\n00:01.000 --> 00:02.000\nwarm\n", 1),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_subtitles_are_refused_with_their_line(what: str) -> None:
    text, line = MALFORMED[what]
    with pytest.raises(InputError) as caught:
        parse_script(text, "look.srt", ".srt")
    said = caught.value
    place = f"look.srt, line {line}: " if line else "look.srt: "
    assert said.found.startswith(place), said
    assert all((said.expected, said.fix))
    assert "Traceback" not in str(said)


@pytest.mark.parametrize(
    ("text", "suffix", "place"),
    [
        ("WEBVTT\n00:01.000 --> 00:02.000\nwarm", ".vtt", "line 2"),
        ("WEBVTT\n\n00:01,000 --> 00:02,000\nwarm", ".vtt", "line 3"),
        ("[0:01-0:02 warm", "", "line 1"),
        ("[0:01-0:02] warm\n[0:03-0:02] blue", "", "line 2"),
        ("[0:01-0:02]", "", "line 1"),
        ("warm light", "", "line 1"),
        ('[\n{"start": 1\n "end": 2}]', "", "line 3"),
        ('[{"start": 1, "end": 2, "prompt": "a"}, {"start": "x", "prompt": "b"}]', "", "cue 2"),
        ('[{"start": true, "prompt": "b"}]', "", "cue 1"),
        ('[{"start": NaN, "prompt": "b"}]', "", "cue 1"),
        ('[{"start": 1e400, "prompt": "b"}]', "", "cue 1"),
        ('[{"start": 1, "prompt": ["b"]}]', "", "cue 1"),
        ('[{"start": 1, "color": "b"}]', "", "cue 1"),
        ('{"start": 1, "prompt": "b"}', "", "cue 1"),
        ("[" * 100_000, ".json", "look"),
    ],
)
def test_other_forms_are_refused_with_their_place(text: str, suffix: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_script(text, "look", suffix)
    assert place in caught.value.found
    assert caught.value.fix


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(SRT.encode("utf-16"))
    assert len(read_script(tmp_path / "a.srt").cues) == 2
    (tmp_path / "b.srt").write_bytes(GOOD.encode() + b"2\n00:00:02,000 --> 00:00:03,000\nbl\xe4u\n")
    wrong = {"b.srt": "line 7", "missing.srt": "No such file", ".": "folder"}
    (tmp_path / "c.srt").write_bytes(b" " * (5 << 20))
    for name, text in (wrong | {"c.srt": "more than"}).items():
        with pytest.raises(InputError, match="script") as caught:
            read_script(tmp_path / name)
        assert text in str(caught.value) or name == "."


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[tuple[int, int, str]], str]:
    """Cues in order that may leave gaps, and their text."""
    times = sorted(draw(st.sets(st.integers(0, 40_000), min_size=2, max_size=20)))
    spans = draw(st.lists(st.sampled_from([*pairwise(times)]), min_size=1, unique=True))
    cues = [(start, end, draw(st.sampled_from("abc"))) for start, end in sorted(spans)]
    lines = [f"[{start / 1000:.3f}-{end / 1000:.3f}] {prompt}" for start, end, prompt in cues]
    return cues, "\n".join(lines)


@pytest.mark.any_message
@settings(max_examples=200, deadline=None)
@given(scripts(), st.integers(1, 1000))
def test_every_segment_has_the_prompt_at_its_first_frame(made: tuple, frames: int) -> None:
    cues, text = made
    for config in (NANO.segment, HALLO3.segment):
        plan, script = SegmentPlan(frames, config), parse_script(text)
        prompts = script.prompts(plan, "default")
        assert prompts == parse_script(text).prompts(plan, "default")
        kept = [frame for segment in plan for frame in segment.slots[segment.keep]]
        assert kept == [*range(frames)]
        for index, prompt in enumerate(prompts):
            now = 1000 * plan.first(index) / config.fps
            on = [cue for cue in cues if cue[0] <= now < cue[1]]
            assert [prompt] == [cue[2] for cue in on] or (not on and prompt == "default")
        for later, (before, after) in enumerate(pairwise(prompts), 1):
            if before == after:
                continue
            begun = [start for start, _, prompt in cues if prompt == after]
            ended = [end for _, end, prompt in cues if prompt == before]
            times = ended if after == "default" else begun
            due = [t for t in times if plan.first(later - 1) * 1000 < t * config.fps]
            assert any(t * config.fps <= plan.first(later) * 1000 for t in due), "not before its cue"


def test_a_cue_that_no_segment_shows_is_told() -> None:
    plan = SegmentPlan(100, HALLO3.segment)
    with collect_messages() as said:
        found = parse_script("[0:00-0:01] warm\n[0:01-0:01.5] blue\n[0:30-] dim", "look.txt").prompts(plan)
    assert found == ["warm", "", ""]
    assert said == [
        "look.txt, line 2: the cue at 0:01 ends before the next segment begins; it is not used",
        "look.txt, line 3: the cue at 0:30 begins after the end of the speech; it is not used",
    ]


def test_no_script_is_one_prompt_everywhere() -> None:
    plan = SegmentPlan(100, HALLO3.segment)
    assert Script(()).prompts(plan, "a person") == ["a person"] * 3
