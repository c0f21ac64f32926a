"""Encode Speech: a recording to what every segment hears."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..hallo3.speech.features import AUTO, HEARINGS
from ..hallo3.speech.preprocess import SpeechPreprocessing
from .comfy.speech import file_seen, listen
from .convert import check_word, images_of, recording_of
from .schema import SpeechType

SEPARATED = "separated"


class Hallo3EncodeSpeech(io.ComfyNode):
    """AUDIO to HALLO3_SPEECH, and a picture of what is heard."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3EncodeSpeech",
            display_name="Hallo3 Encode Speech",
            category="Hallo3",
            description=(
                "Listens to a recording: one set of speech features a video frame, 25 a second. Any usual "
                "sound, up to 12 hours. The picture it shows is the recording's loudness over "
                "time, with silence shaded and the borders of segments."
            ),
            search_aliases=["hallo3", "audio encode", "wav2vec", "lip sync audio"],
            has_intermediate_output=True,
            inputs=[
                io.Audio.Input(
                    "audio", tooltip="The speech. Clean voices work best; music confuses the mouth."
                ),
                io.AudioEncoder.Input(
                    "audio_encoder",
                    tooltip="wav2vec2-base-960h from Load Audio Encoder, or that of Load Hallo3 Built-in.",
                ),
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "evened raises quiet passages, so that a quieter second speaker is heard. The "
                        "video's own sound stays as it is."
                    ),
                ),
                io.Combo.Input(
                    "silence",
                    options=list(SILENCES),
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "muted makes pauses true silence, so that the noise of a room does not move the "
                        "mouth. The video's own sound stays as it is."
                    ),
                ),
                io.Combo.Input(
                    "hearing",
                    options=list(HEARINGS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "windows is an approximation for recordings of hours, 60 minutes at once; auto is "
                        "exact up to 180 minutes."
                    ),
                ),
                io.Combo.Input(
                    "vocals",
                    options=[AS_RECORDED, SEPARATED],
                    default=AS_RECORDED,
                    optional=True,
                    tooltip=(
                        "separated takes music away first, as the original does, by Kim_Vocal_2.onnx in "
                        "models/audio_separator and onnxruntime. The video's own sound stays as it is."
                    ),
                ),
            ],
            outputs=[
                SpeechType.Output("speech", tooltip="The speech, cut into segments, with its recording."),
                io.Int.Output("segments", tooltip="How many segments the video needs."),
                io.Int.Output("frames", tooltip="How many frames the video will have."),
                io.Float.Output("fps", tooltip="Frames a second, for Create Video."),
                io.Image.Output("plot", tooltip="Loudness, silence and segments over time; as it is shown."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vocals: Any = AS_RECORDED, **_: Any) -> Any:
        """Listen again when the separator's file has come, gone or changed."""
        return file_seen() if vocals == SEPARATED else None

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
        check_word("vocals", vocals, (AS_RECORDED, SEPARATED))
        listening = SpeechPreprocessing(level=level, silence=silence, hearing=hearing)
        socket, plot = listen(audio_encoder, recording_of(audio), listening, vocals=vocals == SEPARATED)
        plan, shown = socket.speech.plan, images_of(plot[None])
        preview = ui.PreviewImage(shown, cls=cls)
        return io.NodeOutput(socket, len(plan), plan.frames, float(plan.config.fps), shown, ui=preview)
