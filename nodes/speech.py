"""Encode Speech: a recording to speech features."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..hallo3.speech.features import AUTO, HEARINGS
from ..hallo3.speech.preprocess import SpeechPreprocessing
from .comfy.speech import encode_speech, vocals_fingerprint
from .comfy.workflow import NAMED_FILES
from .convert import to_images, to_recording
from .schema import FREE_MEMORY, Hallo3Node, SpeechType, make_schema

SEPARATED = "separated"


class Hallo3EncodeSpeech(Hallo3Node):
    MEMORY_ADVICE = f"use a shorter recording, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3EncodeSpeech",
            search_aliases=["hallo3", "audio encode", "wav2vec", "lip sync audio"],
            has_intermediate_output=True,
            inputs=[
                io.Audio.Input("audio"),
                io.AudioEncoder.Input("audio_encoder"),
                io.Combo.Input("level", options=list(LEVELS), default=AS_RECORDED, optional=True),
                io.Combo.Input("silence", options=list(SILENCES), default=AS_RECORDED, optional=True),
                io.Combo.Input("hearing", options=list(HEARINGS), default=AUTO, optional=True, advanced=True),
                io.Combo.Input(
                    "vocals", options=[AS_RECORDED, SEPARATED], default=AS_RECORDED, optional=True
                ),
            ],
            outputs=[
                SpeechType.Output("speech"),
                io.Int.Output("segments"),
                io.Int.Output("frames"),
                io.Float.Output("fps"),
                io.Image.Output("plot"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vocals: Any = AS_RECORDED, **_: Any) -> Any:
        """Run again when the separator's file appears, disappears or changes, or the features have gone."""
        return [NAMED_FILES.losses(), vocals_fingerprint() if vocals == SEPARATED else None]

    @classmethod
    def execute(
        cls,
        audio: Any,
        audio_encoder: Any,
        level: str = AS_RECORDED,
        silence: str = AS_RECORDED,
        hearing: str = AUTO,
        vocals: str = AS_RECORDED,
    ) -> io.NodeOutput:
        preprocessing = SpeechPreprocessing(level=level, silence=silence, hearing=hearing)
        recording = to_recording(audio)
        socket, plot = encode_speech(audio_encoder, recording, preprocessing, vocals=vocals == SEPARATED)
        plan, image = socket.speech.plan, to_images(plot[None])
        preview = ui.PreviewImage(image, cls=cls)
        return io.NodeOutput(socket, len(plan), plan.frames, float(plan.config.fps), image, ui=preview)
