"""Encode Speech: a recording to what every segment hears."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.speech import listen
from .sockets import Speech
from .values import recording_of


class Hallo3EncodeSpeech(io.ComfyNode):
    """AUDIO to HALLO3_SPEECH."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3EncodeSpeech",
            display_name="Hallo3 Encode Speech",
            category="Hallo3",
            description=(
                "Listens to a recording: one set of speech features a video frame, 25 a second. Any sample "
                "rate and any number of channels."
            ),
            search_aliases=["hallo3", "audio encode", "wav2vec", "lip sync audio"],
            inputs=[
                io.Audio.Input(
                    "audio", tooltip="The speech. Clean voices work best; music confuses the mouth."
                ),
                io.AudioEncoder.Input(
                    "audio_encoder",
                    tooltip="wav2vec2-base-960h from Load Audio Encoder, or that of Load Hallo3 Built-in.",
                ),
            ],
            outputs=[
                Speech.Output("speech", tooltip="The speech, cut into segments, with its recording."),
                io.Int.Output("segments", tooltip="How many segments the video needs."),
                io.Int.Output("frames", tooltip="How many frames the video will have."),
                io.Float.Output("fps", tooltip="Frames a second, for Create Video."),
            ],
        )

    @classmethod
    def execute(cls, audio: Any, audio_encoder: Any) -> io.NodeOutput:
        socket = listen(audio_encoder, recording_of(audio))
        plan = socket.speech.plan
        return io.NodeOutput(socket, len(plan), plan.frames, float(plan.config.fps))
