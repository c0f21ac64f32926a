"""Encode Speech: a recording to speech features."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.errors import check_choice
from ..hallo3.media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..hallo3.speech.features import AUTO, HEARINGS
from ..hallo3.speech.preprocess import SpeechPreprocessing
from .comfy.speech import encode_speech, vocals_fingerprint
from .convert import to_images, to_recording
from .schema import SpeechType

SEPARATED = "separated"


class Hallo3EncodeSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3EncodeSpeech",
            display_name="Hallo3 Encode Speech",
            category="Hallo3",
            description=(
                "Turns a recording of up to 12 hours into speech features, 25 per second (one per video "
                "frame). The preview plots loudness over time, with silence shaded and segment borders "
                "marked."
            ),
            search_aliases=["hallo3", "audio encode", "wav2vec", "lip sync audio"],
            has_intermediate_output=True,
            inputs=[
                io.Audio.Input(
                    "audio", tooltip="The speech. A clean voice works best; music disturbs lip sync."
                ),
                io.AudioEncoder.Input(
                    "audio_encoder",
                    tooltip=(
                        "wav2vec2-base-960h from Load Audio Encoder, or the audio encoder of Load Hallo3 "
                        "Built-in."
                    ),
                ),
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "evened raises quiet passages, so a quieter second speaker moves the mouth too. The "
                        "video's sound is unchanged."
                    ),
                ),
                io.Combo.Input(
                    "silence",
                    options=list(SILENCES),
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "muted treats pauses as silence, so room noise does not move the mouth. The video's "
                        "sound is unchanged."
                    ),
                ),
                io.Combo.Input(
                    "hearing",
                    options=list(HEARINGS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "windows is an approximation for recordings of several hours, 60 minutes "
                        "at a time; auto is exact up to 60 minutes."
                    ),
                ),
                io.Combo.Input(
                    "vocals",
                    options=[AS_RECORDED, SEPARATED],
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "separated removes music first, as the original does; needs Kim_Vocal_2.onnx in "
                        "models/audio_separator and onnxruntime. The video's sound is unchanged."
                    ),
                ),
            ],
            outputs=[
                SpeechType.Output(
                    "speech", tooltip="Speech features and the recording, for Hallo3 Extrapolate."
                ),
                io.Int.Output("segments", tooltip="Number of segments."),
                io.Int.Output("frames", tooltip="Number of frames."),
                io.Float.Output("fps", tooltip="Frames per second, for Create Video."),
                io.Image.Output("plot", tooltip="The preview: loudness, silence and segments over time."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vocals: Any = AS_RECORDED, **_: Any) -> Any:
        """Run again when the separator's file appears, disappears or changes."""
        return vocals_fingerprint() if vocals == SEPARATED else None

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
        check_choice(vocals, (AS_RECORDED, SEPARATED), "vocals")
        preprocessing = SpeechPreprocessing(level=level, silence=silence, hearing=hearing)
        recording = to_recording(audio)
        socket, plot = encode_speech(audio_encoder, recording, preprocessing, vocals=vocals == SEPARATED)
        plan, shown = socket.speech.plan, to_images(plot[None])
        preview = ui.PreviewImage(shown, cls=cls)
        return io.NodeOutput(socket, len(plan), plan.frames, float(plan.config.fps), shown, ui=preview)
