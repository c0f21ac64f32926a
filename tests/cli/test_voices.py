"""``hallo3 animate`` with several people in one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.cli.options import BatchOptions, Voice
from hallo3.cli.table import parse_rows
from hallo3.identity_file import read_identity
from hallo3.media.audio import read_recording
from support.audio_samples import tone, write_wav
from support.resume_runs import Command, read_segments

BOXES = "4,30,24,55;40,30,60,55"
UNTESTED = "2 speakers are untested"


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Flags of two people; the second speaks for two of four segments."""
    write_wav(tmp_path / "b.wav", 0.3 * tone(16000, 1.0), 16000)
    return ["--speech", str(tmp_path / "b.wav"), "--face-box", BOXES]


@pytest.mark.any_message
def test_a_stopped_run_resumes_to_the_same_segments(command: Command, two: list[str], tmp_path: Path) -> None:
    assert UNTESTED in command.stderr(*two)
    whole, sound = command.saved_segments(), read_recording(command.video)
    assert len(whole) == 4
    assert abs(sound.seconds - 2.2) < 0.1
    again = tmp_path / "again"
    again.mkdir()
    command.stop(2, *two, o=again / "v.mp4")
    assert "resuming after 2 of 4" in command.stderr(*two, o=again / "v.mp4")
    assert command.rendered == [2, 3]
    assert read_segments(again / "hallo3_jobs") == whole
    crossed = ["--speech", command.inputs["--speech"], "--face-box", BOXES]
    command.stderr(*crossed, speech=tmp_path / "b.wav", o=tmp_path / "w.mp4")
    assert len(command.names_of_jobs()) == 2


@pytest.mark.any_message
def test_an_identity_keeps_several_people(command: Command, two: list[str], tmp_path: Path) -> None:
    file = tmp_path / "pair.safetensors"
    command.stderr(*two, "--save-identity", str(file))
    first = command.saved_segments()
    identity = read_identity(file)
    assert len(identity.people) == len(identity.face_embedding) == 2
    after = ["--identity", str(file), *two[:2]]
    command.stderr(*after, portrait=None, o=tmp_path / "w.mp4")
    assert len(command.names_of_jobs()) == 2
    assert command.rendered == [0, 1, 2, 3]
    assert command.saved_segments() == first  # of either job: their files have the same names
    plan = command.stdout("--identity", str(file), "--plan", portrait=None, speech=f"2={command.speech}")
    assert "face 2, silent 1" in plan
    assert "0 to 2" not in command.stderr(
        "--identity", str(file), portrait=None, speech=f"3={command.speech}", code=2
    )


@pytest.mark.any_message
def test_one_recording_of_two_people(command: Command, tmp_path: Path) -> None:
    (who := tmp_path / "who.txt").write_text("[0-1] 1\n[1-2] 2\n")
    flags = ["--face-box", BOXES, "--plan"]
    assert "faces 1, 2" in command.stdout(*flags, speakers=who)
    both = torch.cat((torch.from_numpy(tone(16000, 1.0)), torch.zeros(1, 16000)))
    stereo = write_wav(tmp_path / "stereo.wav", both.numpy(), 16000)
    request = command.request(*flags, speech=stereo, speakers="channels")
    assert [each.stats.channel for each in request.recordings] == [0, 1]
    assert request.sound == stereo
    assert request.speakers == 2


@pytest.mark.any_message
def test_only_several_voices_change_a_jobs_key(command: Command, two: list[str], tmp_path: Path) -> None:
    one = command.request()
    assert (one.voices, one.speakers, len(one.recordings)) == (None, 1, 1)
    numbered = command.request(speech=f"1={command.speech}", face_box=BOXES)
    several = command.request(*two)
    keys = {each.job_key("") for each in (one, numbered, several)}
    assert len(keys) == 3
    assert several.plan == one.plan
    (who := tmp_path / "who.txt").write_text("[0-1] 1\n[1-2] 2\n")
    turns = command.request(face_box=BOXES, speakers=who).job_key("")
    who.write_text("[0-1] 2\n[1-2] 1\n")
    assert turns != command.request(face_box=BOXES, speakers=who).job_key("")


REFUSED = {
    "five": (["--speech", "b"] * 4, "1 to 4"),
    "mixed": (["--speech", "2=b"], "a number for all"),
    "no box": (["--speech", "b", "--face-box", "4,30,24,55"], "1 boxes"),
    "box": (["--speech", "b", "--face-box", "4,30,24,55;7"], "face box cannot be read"),
    "face": (["--speech", "b", "--face", "1"], "numbers of recordings choose"),
    "whole": (["--speech", "b", "--whole-picture"], "numbers of recordings choose"),
    "speakers": (["--speech", "b", "--speakers", "channels"], "one recording"),
    "mono": (["--speakers", "channels"], "stereo"),
    "missing": (["--speakers", "none.txt"], "none.txt"),
    "nothing": (["--speech", "c"], "c"),
}


@pytest.mark.any_message
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(
    command: Command, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "b", tone(16000, 0.5), 16000)
    flags, expected = REFUSED[name]
    assert expected in command.stderr(*flags, "--plan", code=2)


def test_recordings_have_numbers_or_none() -> None:
    assert Voice.parse("a=b.wav") == Voice(0, Path("a=b.wav"))
    assert Voice.parse("2=a=b.wav") == Voice(2, Path("a=b.wav"))
    assert Voice.parse("3=silence") == Voice(3, None)
    assert Voice.parse("1=") == Voice(0, Path("1="))


@pytest.mark.any_message
def test_silence_of_one_and_duplicate_numbers(command: Command) -> None:
    speech = command.speech
    request = command.request("--speech", "2=silence", speech=f"1={speech}", face_box=BOXES)
    assert request.voices is not None
    assert request.voices.speakers == {1: 0, 2: None}
    told = command.stderr("--speech", f"1={speech}", "--plan", speech=f"1={speech}", code=2)
    assert "another number" in told


def test_a_table_takes_a_list_of_recordings(tmp_path: Path) -> None:
    """In place of the command line's, from the table's folder."""
    options = BatchOptions(
        table=tmp_path / "rows.jsonl", voices=(Voice(0, Path("x.wav")),), speech=Path("x.wav")
    )
    rows: list[Mapping[str, Any]] = [
        {"speech": ["1=a.wav", "2=silence"], "speakers": "who.txt"},
        {"speech": "b.wav"},
        {},
    ]
    found = [row.options for row in parse_rows(rows, options)]
    assert [each is not None for each in found] == [True] * 3
    first, second, third = (each for each in found if each is not None)
    assert first.voices == (Voice(1, tmp_path / "a.wav"), Voice(2, None))
    assert (first.speech, first.speakers) == (tmp_path / "a.wav", tmp_path / "who.txt")
    assert (second.voices, second.speech) == ((Voice(0, tmp_path / "b.wav"),), tmp_path / "b.wav")
    assert third.voices == options.voices
