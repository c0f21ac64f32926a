"""Several people of one picture: their identity, and their voices."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.errors import InputError
from ..hallo3.face.people import analyze_speakers
from ..hallo3.face.selection import FaceChoice
from ..hallo3.media.framing import FRAMINGS
from ..hallo3.media.mix import mix_recordings
from ..hallo3.speakers import MAX_SPEAKERS
from ..hallo3.speech.dialogue import (
    Turn,
    Voice,
    check_turns,
    join_voices,
    parse_turns,
    turns_of,
)
from ..hallo3.speech.features import Speech
from ..hallo3.storage.hashing import hash_facts
from .comfy.faces import create_face_analyzer, face_file_states
from .comfy.loading import ReferenceSocket
from .comfy.picture_file import use_picture_file
from .comfy.progress import show_messages
from .comfy.speech import SpeechSocket
from .comfy.vae import check_vae
from .convert import check_socket, to_picture, to_preview
from .identity import extract_identity
from .schema import FREE_MEMORY, Hallo3Node, IdentityType, ReferenceNetworkType, SpeechType, make_schema


class Hallo3IdentitySpeakers(Hallo3Node):
    MEMORY_ADVICE = f"use a smaller portrait, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3IdentitySpeakers",
            category="Hallo3/identity",
            search_aliases=["hallo3", "two people", "several people", "multi speaker", "conversation"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("portrait"),
                io.Vae.Input("vae"),
                ReferenceNetworkType.Input("reference_network"),
                io.String.Input("faces", default="1, 2"),
                io.Combo.Input("framing", options=list(FRAMINGS), default="auto", optional=True),
                io.Boolean.Input("unverified", default=False, optional=True, advanced=True),
            ],
            outputs=[IdentityType.Output("identity"), io.Image.Output("overview")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again if files of the face analyzer have changed."""
        return face_file_states()

    @classmethod
    def execute(
        cls,
        portrait: Any,
        vae: Any,
        reference_network: ReferenceSocket,
        faces: str,
        framing: str = "auto",
        unverified: bool = False,
    ) -> io.NodeOutput:
        check_socket(reference_network, ReferenceSocket, "reference network", "Load Hallo3 Reference Network")
        numbers, config = parse_faces(faces), reference_network.config
        check_vae(vae, config.vae)
        with show_messages():
            picture = use_picture_file(portrait, to_picture(portrait), "portrait", masked=False, sized=False)
            analyzer = create_face_analyzer(config.face, FaceChoice(), unverified=unverified)
            found = analyze_speakers(picture, analyzer, config.face, numbers)
            identity = extract_identity(picture, found, framing, vae, reference_network)
        preview = to_preview(identity)
        return io.NodeOutput(identity, preview, ui=ui.PreviewImage(preview, cls=cls))


def parse_faces(text: str) -> list[int]:
    """Numbers such as "1, 2". Raises ``InputError``."""
    numbers = [int(word) for word in re.findall(r"\d{1,4}", text)]
    valid = re.fullmatch(r"[\d\s,;]*", text) and 1 <= len(numbers) <= MAX_SPEAKERS and min(numbers) > 0
    if not valid or len(set(numbers)) < len(numbers):
        raise InputError(
            "These faces cannot be used.",
            found=repr(text)[:60],
            expected=f"1 to {MAX_SPEAKERS} different numbers of the preview, such as 1, 2",
            fix="write the numbers of those who speak, separated by commas",
        )
    return numbers


class Hallo3CombineSpeech(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3CombineSpeech",
            category="Hallo3/identity",
            search_aliases=["hallo3", "two speakers", "conversation", "dialogue", "multi speaker", "podcast"],
            inputs=[
                SpeechType.Input("speech_1"),
                *(SpeechType.Input(f"speech_{n}", optional=True) for n in range(2, MAX_SPEAKERS + 1)),
                io.String.Input("speakers", default="", multiline=True, optional=True),
            ],
            outputs=[SpeechType.Output("speech")],
        )

    @classmethod
    def execute(cls, speech_1: SpeechSocket, speakers: str = "", **others: Any) -> io.NodeOutput:
        sockets = [speech_1, *(others.get(f"speech_{n}") for n in range(2, MAX_SPEAKERS + 1))]
        while sockets[-1] is None and len(sockets) > 1:
            sockets.pop()
        check_speech(speech_1)
        for socket in sockets[1:]:
            if socket is not None:
                check_speech(socket)
        if not speakers.strip():
            return io.NodeOutput(combine(sockets))
        if len(sockets) > 1:
            raise InputError(
                "`speakers` is for one recording of several people.",
                found=f"`speakers`, and {sum(each is not None for each in sockets)} recordings",
                expected="one of them",
                fix="empty `speakers`, or connect speech_1 only",
            )
        return io.NodeOutput(divide(speech_1, parse_turns(speakers, "speakers")))


def check_speech(socket: Any) -> None:
    """Raise ``InputError`` unless it is the speech of one recording."""
    check_socket(socket, SpeechSocket, "speech", "Hallo3 Encode Speech")
    if not isinstance(socket.speech, Speech):
        raise InputError(
            "This speech has several voices already.",
            found="the output of another Hallo3 Combine Speech",
            expected="the output of Hallo3 Encode Speech",
            fix="connect all voices to one Hallo3 Combine Speech",
        )


def combine(sockets: list[SpeechSocket | None]) -> SpeechSocket:
    """A recording per person, from left to right, None for silence; they sound at the same time."""
    given = [socket for socket in sockets if socket is not None]
    plans = {socket.speech.plan.config for socket in given}
    if len(plans) > 1:
        raise InputError(
            "These recordings were encoded for different models.",
            found=f"segments of {' and '.join(str(each.frames) for each in plans)} frames",
            expected="one audio encoder for all",
            fix="connect the same audio encoder to all Hallo3 Encode Speech nodes",
        )
    dialogue = join_voices([Voice(None if socket is None else _speech(socket)) for socket in sockets])
    hashes = [None if socket is None else socket.signal_hash for socket in sockets]
    mixed = given[0].recording if len(given) == 1 else mix_recordings([each.recording for each in given])
    longest = max(given, key=lambda each: each.speech.plan.frames)
    return replace(longest, speech=dialogue, recording=mixed, signal_hash=hash_facts({"voices": hashes}))


def divide(socket: SpeechSocket, turns: list[Turn]) -> SpeechSocket:
    """One recording of several people, and who speaks when."""
    check_turns(turns, socket.recording.seconds, "speakers")
    speech, people = _speech(socket), range(1, max(turn.number for turn in turns) + 1)
    fps = speech.plan.config.fps
    dialogue = join_voices([Voice(speech, turns_of(turns, number, fps)) for number in people])
    facts = [socket.signal_hash, [[turn.start, turn.stop, turn.number] for turn in turns]]
    return replace(socket, speech=dialogue, signal_hash=hash_facts({"turns": facts}))


def _speech(socket: SpeechSocket) -> Speech:
    assert isinstance(socket.speech, Speech)  # checked
    return socket.speech
