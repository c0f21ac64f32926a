"""What several speakers say: recordings of their own, or one recording and who speaks when."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, describe_error
from ..media.audio import Recording
from ..segments import SILENT, SegmentPlan
from ..speakers import MAX_SPEAKERS
from .features import ReadFeatures, Speech

MAX_TURNS, MAX_BYTES = 100_000, 16 << 20
CLOCK = r"(?:(\d+):)?(?:(\d{1,4}):)?(\d{1,7}(?:[.,]\d{1,9})?)"
LINE = re.compile(rf"\[?\s*{CLOCK}\s*(?:-|\u2013|-->)\s*{CLOCK}\s*\]?\s*:?\s*(.*?)\s*")
RTTM = re.compile(r"SPEAKER\s+\S+\s+\S+\s+([\d.]+)\s+([\d.]+)\s+\S+\s+\S+\s+(\S+)(?:\s.*)?")
EXAMPLE = "[0:00-0:04.5] 1"


@dataclass(frozen=True, slots=True)
class Turn:
    """Speaker ``number`` speaks from ``start`` to ``stop``, in seconds."""

    start: float
    stop: float
    number: int


@dataclass(frozen=True, slots=True)
class Voice:
    """What one speaker says: all of ``speech``, or what is in ``turns``, each from a frame to another;
    nothing without ``speech``."""

    speech: Speech | None
    turns: tuple[tuple[int, int], ...] | None = None

    def frame_slots(self, slots: Sequence[int]) -> list[int]:
        """The slots of a plan, ``SILENT`` where this speaker says nothing; a recording ends with the frames
        that fill its last segment."""
        frames = self.speech.plan.padded if self.speech is not None else 0
        turns = self.turns if self.turns is not None else ((0, frames),)
        return [
            slot if slot < frames and any(start <= slot < stop for start, stop in turns) else SILENT
            for slot in slots
        ]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The speech of several speakers over one ``plan``, that of the longest recording. Whoever says nothing
    is silent as before a video's first frame: all-zero windows."""

    voices: tuple[Voice, ...]
    plan: SegmentPlan

    @property
    def read(self) -> ReadFeatures:
        """Of one of the recordings; all have the same layers and channels."""
        return next(voice.speech.read for voice in self.voices if voice.speech is not None)

    def segment(self, index: int) -> Tensor:
        """Windows [1, P, F, window, layers, channels] of one segment; of one speaker as of ``Speech``."""
        slots = self.plan[index].slots
        heard = {n: voice for n, voice in enumerate(self.voices) if voice.speech is not None}
        windows = {n: _windows(voice, slots) for n, voice in heard.items()}
        if len(self.voices) == 1:
            return windows[0]
        silence = torch.zeros_like(next(iter(windows.values())))
        return torch.stack([windows.get(n, silence) for n in range(len(self.voices))], dim=1)


def _windows(voice: Voice, slots: Sequence[int]) -> Tensor:
    assert voice.speech is not None
    own = voice.frame_slots(slots)
    if all(slot == SILENT for slot in own):
        return torch.zeros_like(voice.speech.windows((SILENT,))).expand(-1, len(own), -1, -1, -1)
    return voice.speech.windows(own)


def join_voices(voices: Sequence[Voice]) -> Dialogue:
    """A dialogue as long as its longest recording. Raises ``InputError`` if no one speaks."""
    plans = [voice.speech.plan for voice in voices if voice.speech is not None]
    if not plans:
        raise InputError(
            "No one speaks.",
            found=f"{len(voices)} silent speakers",
            expected="a recording of at least one of them",
            fix="give one of them a recording",
        )
    return Dialogue(tuple(voices), max(plans, key=lambda plan: plan.frames))


def assign_voices(
    recordings: Recording | Sequence[Recording | None],
    turns: Sequence[Turn],
    encode: Callable[[Recording], Speech],
) -> tuple[Dialogue, tuple[int, ...]]:
    """The dialogue of recordings of one speaker each, or of one recording with turns, each encoded once; and
    the numbers of its speakers. Raises ``InputError``."""
    if isinstance(recordings, Recording):
        check_turns(turns, recordings.seconds, "turns")
        numbers, speech = tuple(sorted({turn.number for turn in turns})), encode(recordings)
        fps = speech.plan.config.fps
        voices = [Voice(speech, turns_of(turns, number, fps)) for number in numbers]
    else:
        if turns:
            raise _turn_error("turns", f"{len(recordings)} recordings", "turns of a single recording")
        numbers = tuple(range(1, len(recordings) + 1))
        check_count(len(numbers))
        voices = [Voice(None if each is None else encode(each)) for each in recordings]
    return join_voices(voices), numbers


def check_count(count: int) -> None:
    """Raises ``InputError`` for more speakers than there can be, or none."""
    if not 1 <= count <= MAX_SPEAKERS:
        raise InputError(
            "There cannot be this many speakers.",
            found=str(count),
            expected=f"1 to {MAX_SPEAKERS}",
            fix="let fewer people speak",
        )


def turns_of(turns: Sequence[Turn], number: int, fps: int) -> tuple[tuple[int, int], ...]:
    """A speaker's turns in frames: those whose middle is in the turn."""
    own = [turn for turn in turns if turn.number == number]
    return tuple((max(0, round(turn.start * fps)), round(turn.stop * fps)) for turn in own)


def check_turns(turns: Sequence[Turn], seconds: float, where: str) -> None:
    """Raises ``InputError`` for turns that are no stretches of a recording of this length, that overlap, or
    of a number that no speaker can have."""
    for turn in turns:
        if not 1 <= turn.number <= MAX_SPEAKERS:
            raise _turn_error(where, f"speaker {turn.number}", f"a number from 1 to {MAX_SPEAKERS}")
        if not 0 <= turn.start < turn.stop:
            raise _turn_error(where, _describe(turn), "a start before its end")
        if turn.start >= seconds:
            found = f"{_describe(turn)}, in a recording of {seconds:.2f} s"
            raise _turn_error(where, found, "turns inside the recording")
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.stop))
    for one, other in pairwise(ordered):
        if other.start < one.stop and other.number != one.number:
            found = f"{_describe(one)} and {_describe(other)}"
            raise _turn_error(where, found, "one speaker at a time: one recording holds no two voices apart")


def read_turns(path: Path) -> list[Turn]:
    """Who speaks when, by a file of lines ``[0:00-0:04.5] 1``, an RTTM, or an SRT whose texts begin with the
    speaker (``2: ...``). Speakers with names are numbered in the order in which they begin to speak. Raises
    ``InputError``."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _turn_error(path.name, describe_error(error), "a text file") from error
    return parse_turns(text, path.name)


def parse_turns(text: str, where: str) -> list[Turn]:
    """:func:`read_turns` of a text; ``where`` names it in errors."""
    found = _parse_srt(text) if "-->" in text else _parse_lines(text, where)
    if not found or len(found) > MAX_TURNS or len(text) > MAX_BYTES:
        raise _turn_error(where, f"{len(found)} turns", f"1 to {MAX_TURNS:,}")
    names = list(dict.fromkeys(name for _, _, name in sorted(found, key=lambda each: each[0])))
    if all(name.isdecimal() for name in names):
        numbers = {name: int(name[:9]) for name in names}
    else:
        numbers = {name: number for number, name in enumerate(names, 1)}
    return [Turn(start, stop, numbers[name]) for start, stop, name in found]


def _parse_lines(text: str, where: str) -> list[tuple[float, float, str]]:
    """Of lines and of RTTM; empty lines and those with ``#`` or ``;`` first are comments."""
    found = list[tuple[float, float, str]]()
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line[0] in "#;":
            continue
        if rttm := RTTM.fullmatch(line):
            start, length = (_parse_number(each) for each in rttm.groups()[:2])
            found.append((start, start + length, rttm[3]))
        elif (match := LINE.fullmatch(line)) and match[7]:
            found.append((_seconds(match.groups()[:3]), _seconds(match.groups()[3:6]), match[7]))
        elif not re.match(r"(SPKR-INFO|NON-SPEECH|LEXEME|FILLER)\s", line):
            raise _turn_error(f"{where}, line {number}", line[:60], f"a line such as {EXAMPLE}")
    return found


def _parse_srt(text: str) -> list[tuple[float, float, str]]:
    """Of subtitles ``2: What she says``; without a speaker they are the last one's who spoke, at first 1."""
    found, name = list[tuple[float, float, str]](), "1"
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines):
        if (match := LINE.fullmatch(line)) and "-->" in line:
            spoken = lines[number + 1] if number + 1 < len(lines) else ""
            speaker = re.match(r"\[?\(?([^\]\):]{1,40})[\]\)]?\s*:\s", spoken + " ")
            name = speaker[1].strip() if speaker else name
            found.append((_seconds(match.groups()[:3]), _seconds(match.groups()[3:6]), name))
    return found


def _seconds(clock: Sequence[str | None]) -> float:
    """Of hours or minutes, minutes, and seconds, as matched by ``CLOCK``."""
    first, second, last = clock
    whole = [int(each) for each in (first, second) if each is not None]
    minutes = 60 * whole[0] + whole[1] if len(whole) == 2 else sum(whole)
    return 60 * minutes + float((last or "0").replace(",", "."))


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0  # refused with its line


def _describe(turn: Turn) -> str:
    return f"[{turn.start:g} s - {turn.stop:g} s] {turn.number}"


def _turn_error(where: str, found: str, expected: str) -> InputError:
    return InputError(
        "Who speaks when cannot be used.",
        found=f"{where}: {found}",
        expected=expected,
        fix=f"correct it: lines such as {EXAMPLE}, an RTTM, or SRT subtitles such as 2: Hello",
    )
