"""Who speaks when, as windows of several speakers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.config import NANO
from hallo3.errors import InputError
from hallo3.segments import SegmentPlan
from hallo3.speech.dialogue import (
    Dialogue,
    Turn,
    Voice,
    check_turns,
    join_voices,
    read_turns,
    turns_of,
)
from hallo3.speech.features import Speech, read_from_memory

FPS = NANO.segment.fps


def make_speech(frames: int, seed: int = 0) -> Speech:
    plan = SegmentPlan(frames, NANO.segment)
    audio = NANO.audio
    drawn = torch.randn(
        plan.padded, audio.layers, audio.channels, generator=torch.Generator().manual_seed(seed)
    )
    return Speech(read_from_memory(drawn), plan, audio.window)


def windows(dialogue: Dialogue) -> Tensor:
    return torch.cat([dialogue.segment(n) for n in range(len(dialogue.plan))], dim=2)


def test_a_voice_of_its_own_is_the_speech_alone() -> None:
    """And zeros after its last segment; as long as the longest."""
    long, short = make_speech(80), make_speech(20, 1)
    dialogue = join_voices([Voice(short), Voice(long)])
    assert dialogue.plan == long.plan
    for index in range(len(long.plan)):
        segment = dialogue.segment(index)
        assert torch.equal(segment[:, 1], long.segment(index))
        slots = torch.tensor(long.plan[index].slots)
        assert not segment[0, 0, slots >= 34].any()
        before = (slots >= 0) & (slots < 34)
        assert segment[0, 0, before].flatten(1).any(dim=1).all()
    assert torch.equal(dialogue.segment(0)[:, 0], short.segment(0))


def test_who_does_not_speak_has_silent_windows() -> None:
    """As before a video's first frame; every frame of the recording belongs to its turn."""
    speech = make_speech(40)
    turns = [Turn(0, 0.4, 1), Turn(0.4, 1.0, 2), Turn(1.2, 1.6, 1)]
    two = join_voices([Voice(speech, turns_of(turns, number, FPS)) for number in (1, 2)])
    whole = torch.cat([speech.segment(n) for n in range(len(speech.plan))], dim=1)
    slots = torch.tensor([slot for segment in speech.plan for slot in segment.slots])
    found = windows(two)[0]
    first = ((slots >= 0) & (slots < 10)) | ((slots >= 30) & (slots < 40))
    second = (slots >= 10) & (slots < 25)
    for voice, own in zip(found, (first, second), strict=True):
        assert torch.equal(voice[own], whole[0, own])
        assert not voice[~own].any()
    silent = join_voices([Voice(speech), Voice(None)])
    assert not windows(silent)[0, 1].any()


def test_one_speaker_with_turns_has_no_axis_of_speakers() -> None:
    speech = make_speech(20)
    alone = join_voices([Voice(speech, ((0, 20),))])
    assert torch.equal(alone.segment(0), speech.segment(0))


def test_no_one_is_refused() -> None:
    with pytest.raises(InputError, match="No one speaks"):
        join_voices([Voice(None), Voice(None)])


LINES = """
# who speaks when
[0:00-0:04.5] 1
[00:04.5 - 1:00:07] 2
3607-3608.25: 1
"""
RTTM = """
SPKR-INFO talk 1 <NA> <NA> <NA> unknown SPEAKER_01 <NA> <NA>
SPEAKER talk 1 0.00 4.50 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER talk 1 4.50 3602.5 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER talk 1 3607 1.25 <NA> <NA> SPEAKER_01 <NA> <NA>
"""
SRT = """1
00:00:00,000 --> 00:00:04,500
Anna: How are you?

2
00:00:04,500 --> 01:00:07,000
[Ben]: Fine.

3
01:00:07,000 --> 01:00:08,250
Anna: Good.
"""


@pytest.mark.parametrize("text", [LINES, RTTM, SRT, "\ufeff" + LINES])
def test_files_of_three_kinds(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "who.txt").write_text(text, encoding="utf-8")
    turns = read_turns(path)
    assert turns == [Turn(0, 4.5, 1), Turn(4.5, 3607, 2), Turn(3607, 3608.25, 1)]
    check_turns(turns, 4000, "who.txt")


def test_a_subtitle_without_a_name_is_the_last_speakers(tmp_path: Path) -> None:
    text = "00:01,5 --> 00:02\n2: One\n\n00:03 --> 00:04\nTwo"
    (path := tmp_path / "a.srt").write_text(text)
    assert read_turns(path) == [Turn(1.5, 2, 2), Turn(3, 4, 2)]


REFUSED = {
    "[0-1] 1\n[0.5-2] 2": "0 s - 1 s",
    "[0-1] 1\n[1-2] 5": "speaker 5",
    "[0-1] 0": "speaker 0",
    "[2-1] 1": "start before its end",
    "[70-80] 1": "60.00 s",
    "hello": "line 1: hello",
    "": "0 turns",
    "# nothing": "0 turns",
    "[0-1] a\n[1-2] b\n[2-3] c\n[3-4] d\n[4-5] e": "speaker 5",
    "SPEAKER a 1 1.2.3 1 <NA> <NA> x": "start before its end",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "who.txt").write_text(text)
    with pytest.raises(InputError) as raised:
        check_turns(read_turns(path), 60, path.name)
    assert REFUSED[text] in str(raised.value)
    assert "who.txt" in str(raised.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "who.txt").write_bytes(b"\xff\xfe\x00")
    for each in (path, tmp_path / "missing.txt"):
        with pytest.raises(InputError, match=each.name):
            read_turns(each)


def test_turns_of_one_speaker_may_overlap() -> None:
    check_turns([Turn(0, 2, 1), Turn(1, 3, 1), Turn(3, 4, 2)], 10, "turns")
