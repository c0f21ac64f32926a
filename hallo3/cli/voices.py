"""What several speakers say, as the command line has it: read and checked once, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Hallo3Config
from ..errors import FaceError, InputError
from ..media.mix import Mix
from ..offload.estimate import TensorSizes
from ..quantization import Precision
from ..segments import SegmentPlan
from ..speech.dialogue import (
    Dialogue,
    Turn,
    Voice,
    check_count,
    check_turns,
    join_voices,
    read_turns,
    turns_of,
)
from ..speech.features import Speech
from ..units import format_bytes
from .options import CHANNELS, AnimateOptions
from .session import Spoken, cuts_seams, names_part

BLOCK_PRODUCTS = 14
"""Width-by-width products of a block per token: attention has 4, both cross-attentions 2 each, of which half
is prepared, and the MLP 8."""
ReadRecording = Callable[[Path], Spoken]


@dataclass(frozen=True, kw_only=True)
class Voices:
    """``recordings`` to encode; ``speakers`` has the index of each one's recording, None for silence, by the
    number of the face, from left to right; in ``turns``, if there are any."""

    recordings: tuple[Spoken, ...]
    speakers: dict[int, int | None]
    turns: tuple[Turn, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the faces."""
        return tuple(self.speakers)

    @property
    def plan(self) -> SegmentPlan:
        """Of the whole video."""
        return max((each.plan for each in self.recordings), key=lambda plan: plan.frames)

    @property
    def sound(self) -> Path | Mix:
        """Of the video: the recording, or all of them at once."""
        first, *others = {each.path: each for each in self.recordings}.values()
        if not others:
            return first.path
        return Mix(tuple((each.path, each.stats) for each in (first, *others)))

    def facts(self) -> list[Any]:
        """Everything that decides frames, for the job's key."""
        hashes = [[each.hash, each.stats.channel] for each in self.recordings]
        turns = [[turn.start, turn.stop, turn.number] for turn in self.turns]
        return [hashes, list(self.speakers.items()), turns]

    def join(self, features: Sequence[Speech]) -> Dialogue:
        """The dialogue, from the features of every recording."""
        fps = self.plan.config.fps
        return join_voices(
            [
                Voice(
                    None if place is None else features[place],
                    turns_of(self.turns, number, fps) if self.turns else None,
                )
                for number, place in self.speakers.items()
            ]
        )

    def of_people(self, people: int) -> Voices:
        """For a saved identity of several people, of whom those without a recording are silent. Raises
        ``FaceError``."""
        if max(self.speakers) > people:
            raise FaceError(
                "There is no face for a recording.",
                found=f"a recording for number {max(self.speakers)}, and {people} in the identity",
                expected=f"numbers from 1 to {people}, from the left",
                fix="use another identity, or let fewer people speak",
            )
        return replace(self, speakers={n: self.speakers.get(n) for n in range(1, people + 1)})

    def describe(self, config: Hallo3Config, precision: Precision) -> str:
        """For a plan: who speaks, and what that takes more than one speaker does."""
        speaking = [n for n, place in self.speakers.items() if place is not None]
        silent = [n for n in self.speakers if n not in speaking]
        faces = f"face{'s' * (len(speaking) > 1)} {', '.join(map(str, speaking))}"
        text = f"{faces}" + f", silent {', '.join(map(str, silent))}" * bool(silent)
        more = len(self.speakers) - 1
        if not more:
            return text
        sizes, latent, trunk = TensorSizes(config, precision), config.segment.shape.latent, config.trunk
        tokens = latent.tokens + trunk.text_tokens
        joint = tokens * (BLOCK_PRODUCTS * trunk.width + 2 * (tokens + latent.tokens_per_frame))
        crossed = 2 * latent.tokens * (config.audio.tokens + (1 + trunk.heads) * config.face.tokens)
        memory = format_bytes(more * (sizes.audio_kv + sizes.face_kv))
        return f"{text}; + {more * crossed / joint:.1%} of computing, + {memory} of conditions"


def read_voices(options: AnimateOptions, read: ReadRecording) -> Voices:
    """The speakers of a command line. Raises ``InputError`` and ``AudioError``."""
    if (is_part := names_part(options)) or cuts_seams(options):
        raise InputError(
            "This needs the recording of one speaker.",
            found="--from, --to or --silence-..." if is_part else "--seams or --chapters",
            expected="one recording, without --speakers",
            fix="remove it, and cut the recordings beforehand",
        )
    voices = options.voices or ((0, options.speech),)
    if options.speakers is not None:
        return _read_one_recording(options, read)
    numbers = [number for number, _ in voices]
    if any(numbers) and not all(numbers):
        raise _voices_error("recordings with and without a number of a face", "a number for all, or for none")
    numbers = numbers if any(numbers) else [*range(1, len(voices) + 1)]
    check_count(len(numbers))
    if len(set(numbers)) < len(numbers) or min(numbers) < 1:
        found = ", ".join(map(str, numbers))
        raise _voices_error(f"the numbers {found}", "another number from 1 for each, from the left")
    paths = [path for _, path in voices if path is not None]
    if not paths:
        raise _voices_error("silence for all", "a recording of at least one of them")
    recordings = {path: read(path) for path in paths}
    places = [None if path is None else list(recordings).index(path) for _, path in voices]
    speakers = dict(sorted(zip(numbers, places, strict=True)))
    return Voices(recordings=tuple(recordings.values()), speakers=speakers)


def _read_one_recording(options: AnimateOptions, read: ReadRecording) -> Voices:
    if len(options.voices) > 1 or options.speech is None or any(number for number, _ in options.voices):
        raise _voices_error("--speakers and several recordings, or one with a number", "one recording")
    recording = read(options.speech)
    if options.speakers == CHANNELS:
        if recording.stats.channels != 2:
            raise _voices_error(
                f"--speakers {CHANNELS} and a recording of {recording.stats.channels} channels",
                "a stereo recording: the first face on the left, the second on the right",
            )
        sides = (replace(recording, stats=replace(recording.stats, channel=side)) for side in range(2))
        return Voices(recordings=tuple(sides), speakers={1: 0, 2: 1})
    assert isinstance(options.speakers, Path)
    turns = read_turns(options.speakers)
    check_turns(turns, recording.stats.samples / recording.stats.sample_rate, options.speakers.name)
    numbers = sorted({turn.number for turn in turns})
    return Voices(recordings=(recording,), speakers=dict.fromkeys(numbers, 0), turns=tuple(turns))


def _voices_error(found: str, expected: str) -> InputError:
    return InputError(
        "These recordings cannot be used for several people.",
        found=found,
        expected=expected,
        fix="such as --speech 1=anna.wav --speech 2=ben.wav, or --speech both.wav --speakers who.txt",
    )
