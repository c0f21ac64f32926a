"""What a video shows when: prompts by time, from SubRip, WebVTT, lines ``[0:12-0:20] text``, or JSON.

A script describes the picture. What is said comes from the recording alone: a file becomes a script because
the user names it as one, and cues that a format marks as speech (WebVTT's voice tag ``<v Ann>``, JSON's
``speech``) make no prompt. pysubs2 reads the times and the markup of a subtitle; it takes what it cannot read
as text, so where cues begin and end is checked here, with numbers of lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

from .errors import InputError, describe_error, sanitize
from .messages import logger
from .segments import SegmentPlan
from .storage.files import describe_foreign, open_regular
from .text_encoder import check_prompt
from .units import format_clock

MAX_SCRIPT_BYTES, MAX_CUES, MAX_PROMPT = 4 << 20, 20_000, 10_000
"""Of a script; letters of a prompt, of which text encoders read the beginning."""
SUFFIXES = (".srt", ".vtt", ".json", ".txt")
OPEN_END = 2**53
"""End, in milliseconds, of a cue that lasts until the next."""
STAMP = r"(?:\d{1,2}:)?[0-5]?\d:[0-5]\d[.,]\d{3}"
TIMING = re.compile(rf"({STAMP})\s*-->\s*({STAMP})(?:\s(?!.*-->).*)?")
CLOCK = r"(?:\d{1,3}:)?\d{1,3}:[0-5]?\d(?:\.\d{1,3})?|\d{1,6}(?:\.\d{1,3})?"
LINE = re.compile(rf"\[\s*({CLOCK})\s*-\s*({CLOCK})?\s*\](.*)")
COMMENTS = ("NOTE", "STYLE", "REGION")
"""Beginnings of WebVTT blocks that are no cues."""
EXAMPLES = {
    "srt": "a number, `00:00:12,000 --> 00:00:20,000`, lines of text, and an empty line",
    "vtt": "`WEBVTT`, and after an empty line cues of `00:12.000 --> 00:20.000` and lines of text",
    "lines": "lines such as `[0:12-0:20] in blue light`",
    "json": '[{"start": "0:12", "end": "0:20", "prompt": "in blue light"}, ...]; seconds are numbers',
}


@dataclass(frozen=True, slots=True)
class Cue:
    """From ``start`` to before ``end``, in milliseconds. ``prompt`` is empty where the cue is speech;
    ``line`` is its line of the script, of JSON its number."""

    start: int
    end: int
    prompt: str
    line: int

    def begins_by(self, frame: int, fps: int) -> bool:
        """Whether it has begun when this frame is shown."""
        return self.start * fps <= frame * 1000

    def covers(self, frame: int, fps: int) -> bool:
        return self.begins_by(frame, fps) and frame * 1000 < self.end * fps


@dataclass(frozen=True, slots=True)
class Script:
    """``cues`` as they are in the file; those with prompts are in order and do not overlap."""

    cues: tuple[Cue, ...]
    name: str = "script"

    @property
    def seconds(self) -> list[tuple[float, float]]:
        """From when to when each cue lasts."""
        return [(cue.start / 1000, cue.end / 1000) for cue in self.cues]

    def prompts(self, plan: SegmentPlan, default: str = "") -> list[str]:
        """Each segment's prompt: the cue's at its first new frame, so that a change shows at the first seam
        after its time and never before it; ``default`` where there is none. Warns of cues that no segment
        begins in."""
        fps, looks = plan.config.fps, [cue for cue in self.cues if cue.prompt]
        prompts, place, seen = list[str](), 0, set[int]()
        for index in range(len(plan)):
            frame = plan.first(index)
            while place < len(looks) and looks[place].end * fps <= frame * 1000:
                place += 1
            is_on = place < len(looks) and looks[place].covers(frame, fps)
            prompts.append(looks[place].prompt if is_on else default)
            seen |= {place} if is_on else set()
        for number, cue in enumerate(looks):
            if number not in seen:
                why = "begins after the end of the speech"
                if cue.start * fps < plan.frames * 1000:
                    why = "ends before the next segment begins"
                logger.warning(
                    f"{self.name}, line {cue.line}: the cue at {_clock(cue.start)} {why}; it is not used"
                )
        return prompts


def read_script(path: Path) -> Script:
    """Raises ``InputError``, with the line, for what is no script."""
    try:
        with open_regular(path, follow_links=True) as file:
            content = file.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise InputError(
            "The script cannot be opened.",
            found=f"{path}: {error.strerror or error}",
            expected="a text file",
            fix="check the name after --script",
        ) from error
    if len(content) > MAX_SCRIPT_BYTES:
        _refuse(path.name, 0, f"more than {MAX_SCRIPT_BYTES:,} bytes", "a text of prompts", "shorten it")
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = describe_foreign(content) or f"the byte {content[error.start]:#04x}, which is not UTF-8"
        _refuse(path.name, line, found, "text in UTF-8", "save the file as UTF-8")
    return parse_script(text, path.name, path.suffix.lower())


def parse_script(text: str, name: str = "script", suffix: str = "") -> Script:
    """``suffix`` is a file's: .srt, .vtt or .json decide the format, else the text does. Raises
    ``InputError``."""
    kind = {".srt": "srt", ".vtt": "vtt", ".json": "json"}.get(suffix) or _guess(text)
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if control := re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line):
            _refuse(name, number, f"the control character {control[0]!a}", "text", "save it as plain text")
    read = {"srt": _read_subtitles, "vtt": _read_webvtt, "json": _read_json, "lines": _read_lines}[kind]
    cues = [*read(lines, name)]
    if not 0 < len(cues) <= MAX_CUES:
        found = f"{len(cues):,} cues" if cues else "no cue"
        _refuse(name, 0, found, f"1 to {MAX_CUES:,} cues: {EXAMPLES[kind]}", "add cues, or name another file")
    looks = [cue for cue in cues if cue.prompt]
    for before, cue in pairwise(looks):
        if cue.start < before.start:
            what = f"a cue at {_clock(cue.start)} after one at {_clock(before.start)}"
            _refuse(name, cue.line, what, "cues in order of time", "sort the cues")
        if cue.start < before.end != OPEN_END:
            what = f"a cue at {_clock(cue.start)}, before the one before it ends at {_clock(before.end)}"
            _refuse(name, cue.line, what, "cues that do not overlap", "end one before the next begins")
    ends = {before: cue.start for before, cue in pairwise(looks)}
    return Script(tuple(replace(cue, end=min(cue.end, ends.get(cue, cue.end))) for cue in cues), name)


def _guess(text: str) -> str:
    text = text.removeprefix("\ufeff").lstrip()
    if text.startswith("WEBVTT"):
        return "vtt"
    if re.match(r"\{|\[\s*[\]{]", text):
        return "json"
    return "lines" if re.match(r"[\[#]", text) or "-->" not in text else "srt"


def _read_webvtt(lines: Sequence[str], name: str) -> Iterator[Cue]:
    first = lines[0]
    if not re.fullmatch(r"WEBVTT([ \t].*)?", first):
        _refuse(name, 1, _quote(first), "WEBVTT in the first line", "add it, or name the file .srt")
    rest = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    for number in range(1, rest):
        if "-->" in lines[number]:
            _refuse(name, number + 1, _quote(lines[number]), "an empty line after WEBVTT", "add one")
    yield from _read_subtitles(["" if n < rest else line for n, line in enumerate(lines)], name, "vtt")


def _read_subtitles(lines: Sequence[str], name: str, kind: str = "srt") -> Iterator[Cue]:
    for first, block in _blocks(lines):
        if kind == "vtt" and re.match(rf"({'|'.join(COMMENTS)})\b", block[0]) and "-->" not in block[0]:
            continue
        at = 1 if len(block) > 1 and "-->" not in block[0] else 0
        number, timing, shown = first + at, block[at].strip(), block[at + 1 :]
        if at and kind == "srt" and not block[0].strip().isdecimal():
            _refuse(
                name, first, _quote(block[0]), f"the number of a cue: {EXAMPLES[kind]}", "remove the line"
            )
        if (match := TIMING.fullmatch(timing)) is None or (kind == "vtt" and "," in match[1] + match[2]):
            _refuse(name, number, _quote(timing), f"the times of a cue: {EXAMPLES[kind]}", "correct the line")
        for more, line in enumerate(shown, number + 1):
            if "-->" in line:
                _refuse(name, more, _quote(line), "an empty line between two cues", "add one before this cue")
        times = [f"{'00:' * (stamp.count(':') == 1)}{stamp}" for stamp in match.groups()]
        start, end, prompt = _read_cue(times, shown)
        is_speech = kind == "vtt" and any(re.search(r"<v[\s.>]", line) for line in shown)
        yield _make_cue(name, number, start, end, "" if is_speech else prompt, is_speech=is_speech)


def _read_cue(times: Sequence[str], shown: Sequence[str]) -> tuple[int, int, str]:
    """Start and end in milliseconds, and the text without markup."""
    import pysubs2  # by those who have subtitles only

    block = "\n".join((" --> ".join(times).replace(".", ","), *shown))
    event = pysubs2.SSAFile.from_string(block, format_="srt")[0]
    return int(event.start), int(event.end), event.plaintext


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines between empty ones, with the number of the first."""
    block = list[str]()
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _read_lines(lines: Sequence[str], name: str) -> Iterator[Cue]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (match := LINE.fullmatch(line.strip())) is None:
            _refuse(
                name,
                number,
                _quote(line),
                EXAMPLES["lines"],
                "correct the line, or begin it with # to skip it",
            )
        start, end, prompt = match.groups()
        yield _make_cue(
            name, number, _parse_clock(start), OPEN_END if end is None else _parse_clock(end), prompt
        )


def _read_json(lines: Sequence[str], name: str) -> Iterator[Cue]:
    try:
        parsed: Any = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        _refuse(
            name, error.lineno, f"{error.msg} at letter {error.colno}", EXAMPLES["json"], "correct the line"
        )
    except (ValueError, RecursionError) as error:
        _refuse(name, 0, describe_error(error), EXAMPLES["json"], "correct the file")
    entries: list[Any] = cast("list[Any]", parsed) if isinstance(parsed, list) else [None]
    for number, entry in enumerate(entries, 1):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        texts = [fields.get(key) for key in ("prompt", "speech") if key in fields]
        times = [_parse_time(fields.get("start")), _parse_time(fields.get("end", OPEN_END / 1000))]
        known = fields.keys() <= {"start", "end", "prompt", "speech"}
        if not known or not texts or not all(isinstance(text, str) for text in texts) or None in times:
            _refuse(name, number, _quote(json.dumps(entry)), EXAMPLES["json"], "correct this cue", "cue")
        start, end = cast("list[int]", times)
        yield _make_cue(
            name, number, start, end, fields.get("prompt", ""), "cue", is_speech="prompt" not in fields
        )


def _parse_time(value: object) -> int | None:
    """Milliseconds of seconds, or of a clock's time; None for anything else."""
    if isinstance(value, str) and re.fullmatch(CLOCK, value):
        return _parse_clock(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        round(1000 * cast(float, value)) if is_number and 0 <= cast(float, value) * 1000 <= OPEN_END else None
    )


def _parse_clock(time: str) -> int:
    """Milliseconds of ``12.5``, ``0:12.5`` or ``1:02:03``."""
    whole, _, fraction = time.partition(".")
    seconds = 0
    for part in whole.split(":"):
        seconds = 60 * seconds + int(part)
    return 1000 * seconds + int(f"{fraction:0<3}" if fraction else 0)


def _make_cue(
    name: str, line: int, start: int, end: int, text: str, unit: str = "line", *, is_speech: bool = False
) -> Cue:
    prompt = " ".join(text.split())
    if start >= end:
        what = f"a cue from {_clock(start)} to {_clock(end)}"
        _refuse(name, line, what, "an end after the start", "correct the times", unit)
    if not prompt and not is_speech:
        _refuse(name, line, "a cue without text", "what the picture shows from then on", "add it", unit)
    if len(prompt) > MAX_PROMPT:
        found = f"a prompt of {len(prompt):,} letters"
        _refuse(name, line, found, f"at most {MAX_PROMPT:,}", "shorten it", unit)
    try:
        check_prompt(prompt)
    except InputError as error:
        _refuse(name, line, error.found, error.expected, error.fix, unit)
    return Cue(start, end, prompt, line)


def _refuse(name: str, line: int, found: str, expected: str, fix: str, unit: str = "line") -> NoReturn:
    place = f"{name}, {unit} {line}: " if line else f"{name}: "
    raise InputError("The script cannot be read.", found=place + found, expected=expected, fix=fix)


def _quote(text: str) -> str:
    text = sanitize(text.strip())
    return repr(text[:60] + "..." * (len(text) > 60))


def _clock(milliseconds: int) -> str:
    """``0:12.5``: as in a script."""
    seconds, rest = divmod(milliseconds, 1000)
    return format_clock(seconds) + (f".{rest:03d}".rstrip("0") if rest else "")
